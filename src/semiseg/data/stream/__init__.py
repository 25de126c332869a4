"""From lists of images to batches."""
