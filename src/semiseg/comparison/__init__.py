"""Comparisons: methods x labels x seeds on anybody's data, each run in a process of its own; the table, the picture."""

from semiseg.comparison.run import compare
from semiseg.comparison.work import CellsFailed

__all__ = ["CellsFailed", "compare"]
