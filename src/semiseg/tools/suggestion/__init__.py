"""Suggest unlabeled images to annotate next, and draft their masks."""
