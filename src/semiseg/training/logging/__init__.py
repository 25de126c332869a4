"""What a run records: metrics, console, trackers, sample pictures, resources."""
