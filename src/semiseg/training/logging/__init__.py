"""Logging of a run: metrics, console, trackers, sample pictures, resources."""
