"""Which images are labeled, unlabeled, for validation and for the test."""
