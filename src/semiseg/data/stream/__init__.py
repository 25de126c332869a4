"""The training stream, from lists of images to batches."""
