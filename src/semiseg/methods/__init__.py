"""The methods, one file each. This is the only list of them."""

from semiseg.methods.dual_student import DualStudent
from semiseg.methods.dual_teacher import DualTeacher
from semiseg.methods.mean_teacher import MeanTeacher
from semiseg.methods.method import Batch, Method, Progress, StepOutput
from semiseg.methods.pc2seg import PC2Seg
from semiseg.methods.pseudoseg import PseudoSeg
from semiseg.methods.supervised import Supervised

METHODS: dict[str, type[Method]] = {
    "supervised": Supervised,
    "mean-teacher": MeanTeacher,
    "dual-student": DualStudent,
    "dual-teacher": DualTeacher,
    "pseudoseg": PseudoSeg,
    "pc2seg": PC2Seg,
}
ALIASES = {"cps": "dual-student"}

__all__ = ["ALIASES", "METHODS", "Batch", "Method", "Progress", "StepOutput"]
