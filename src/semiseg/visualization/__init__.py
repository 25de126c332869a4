"""Pictures of masks and predictions."""
