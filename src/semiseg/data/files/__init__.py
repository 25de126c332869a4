"""Image files, folders written atomically, and compact lists of names."""
