"""Reports: one page about a run, or one that compares several, from nothing but the runs' own files."""

from semiseg.tools.report.write_report import write_report
from semiseg.visualization.mask_pictures import LoadedRun

__all__ = ["LoadedRun", "write_report"]
