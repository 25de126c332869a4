"""Repeat published tables: plan their runs, estimate the time, compare the results."""
