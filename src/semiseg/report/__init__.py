"""Reports: one page about a run, or one that compares several, from nothing but the runs' own files."""

from semiseg.report.pictures import LoadedRun
from semiseg.report.write import write_report

__all__ = ["LoadedRun", "write_report"]
