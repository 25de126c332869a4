"""Masks and predictions as pictures."""
