"""Importers of trees of images and masks: which folder holds which, and the image of each mask."""
