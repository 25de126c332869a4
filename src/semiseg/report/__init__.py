"""Reports: one page about a run, or one that compares several, from nothing but the runs' own files."""

from semiseg.report.page import write_report
from semiseg.report.pictures import LoadedRun

__all__ = ["LoadedRun", "write_report"]
