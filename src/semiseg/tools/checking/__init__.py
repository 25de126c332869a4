"""Check a data set before training: ``check_data`` returns findings, statistics and a suggested command."""

from semiseg.tools.checking.check_text import format_check
from semiseg.tools.checking.data_check import CheckedSamples, DataCheck, check_data
from semiseg.tools.checking.finding import Finding
from semiseg.tools.checking.mask_findings import ClassCount
from semiseg.tools.checking.scan import Progress

__all__ = ["CheckedSamples", "ClassCount", "DataCheck", "Finding", "Progress", "check_data", "format_check"]
