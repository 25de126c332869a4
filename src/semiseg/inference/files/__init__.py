"""Predict image files, directories of image files and shards."""
