"""Image files, folders that are written atomically, and compact lists of names."""
