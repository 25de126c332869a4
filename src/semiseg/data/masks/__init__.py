"""Interpret the stored values of the masks of a plain folder: values, colors, and whether they make sense."""
