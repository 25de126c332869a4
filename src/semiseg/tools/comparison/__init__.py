"""Comparisons: methods x labels x seeds on anybody's data, each run in a process of its own; the table, the picture."""

from semiseg.tools.comparison.compare_methods import compare
from semiseg.tools.comparison.runner import CellsFailed

__all__ = ["CellsFailed", "compare"]
