"""Readers of the export formats of annotation tools and data hubs."""
