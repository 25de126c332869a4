"""Tensor functions that the methods' equations are built from. They do not depend on files or on the trainer."""
