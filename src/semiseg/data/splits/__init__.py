"""Lists of labeled, unlabeled, validation and test images."""
