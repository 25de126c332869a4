"""The methods, one file each. This is the only list of them."""

from semiseg.methods.augseg import AugSeg
from semiseg.methods.dual_student import DualStudent
from semiseg.methods.dual_teacher import DualTeacher
from semiseg.methods.fixmatch import FixMatch
from semiseg.methods.gentle_teaching_assistant import GentleTeachingAssistant
from semiseg.methods.mean_teacher import MeanTeacher
from semiseg.methods.method import Batch, Method, Progress, StepOutput
from semiseg.methods.supervised import Supervised
from semiseg.methods.unimatch import UniMatch
from semiseg.methods.unimatch_v2 import UniMatchV2

METHODS: dict[str, type[Method]] = {
    "supervised": Supervised,
    "mean-teacher": MeanTeacher,
    "dual-student": DualStudent,
    "dual-teacher": DualTeacher,
    "augseg": AugSeg,
    "fixmatch": FixMatch,
    "unimatch": UniMatch,
    "unimatch-v2": UniMatchV2,
    "gentle-teaching-assistant": GentleTeachingAssistant,
}
ALIASES = {"cps": "dual-student", "gta-seg": "gentle-teaching-assistant"}

__all__ = ["ALIASES", "METHODS", "Batch", "Method", "Progress", "StepOutput"]
