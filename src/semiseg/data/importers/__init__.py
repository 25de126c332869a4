"""Readers of the export formats of annotation tools and data hubs.

Register a new reader in ``DATASETS`` and ``LAYOUTS`` in ``semiseg/data/__init__.py``.
"""
