"""All methods, one file each. Register a new one in ``METHODS``."""

from typing import Any

from semiseg.methods.augseg import AugSeg
from semiseg.methods.dual_student import DualStudent
from semiseg.methods.dual_teacher import DualTeacher
from semiseg.methods.fixmatch import FixMatch
from semiseg.methods.gentle_teaching_assistant import GentleTeachingAssistant
from semiseg.methods.mean_teacher import MeanTeacher
from semiseg.methods.method import Batch, Method, Progress, StepOutput
from semiseg.methods.pc2seg import PC2Seg
from semiseg.methods.pseudoseg import PseudoSeg
from semiseg.methods.supervised import Supervised
from semiseg.methods.u2pl import U2PL
from semiseg.methods.unimatch import UniMatch
from semiseg.methods.unimatch_v2 import UniMatchV2

METHODS: dict[str, type[Method]] = {
    "supervised": Supervised,
    "mean-teacher": MeanTeacher,
    "dual-student": DualStudent,
    "dual-teacher": DualTeacher,
    "pseudoseg": PseudoSeg,
    "pc2seg": PC2Seg,
    "augseg": AugSeg,
    "fixmatch": FixMatch,
    "unimatch": UniMatch,
    "unimatch-v2": UniMatchV2,
    "gentle-teaching-assistant": GentleTeachingAssistant,
    "u2pl": U2PL,
}
ALIASES = {"cps": "dual-student", "gta-seg": "gentle-teaching-assistant"}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    # French, Laine, Aila, Mackiewicz, Finlayson, BMVC 2020. All pixels have the fraction of confident pixels as weight.
    "cutmix-seg": (
        "mean-teacher",
        {
            "mixing": "cutmix",
            "unsupervised_loss": "mse",
            "label_temperature": 1.0,
            "threshold": 0.97,
            "threshold_mode": "batch",
            "teacher_mode": "train",
            "color_strength": 0.0,
        },
    ),
    # Olsson, Tranheden, Pinto, Svensson, WACV 2021.
    "classmix": (
        "mean-teacher",
        {
            "mixing": "classmix",
            "threshold": 0.968,
            "threshold_mode": "batch",
            "teacher_mode": "train",
            "ema_buffers": "own",
            "color_strength": 0.25,
        },
    ),
}
"""Published methods that equal another method with other options. These override a preset; the user's win."""
VARIANT_PAPERS: dict[str, tuple[str, dict[str, str]]] = {
    "cutmix-seg": (
        "mean-teacher with CutMix and squared error",
        {"French et al. 2020": "https://arxiv.org/abs/1906.01916"},
    ),
    "classmix": (
        "mean-teacher with ClassMix",
        {"Olsson et al. 2021": "https://arxiv.org/abs/2007.07936"},
    ),
}
"""One-line summary and papers of each variant."""

__all__ = ["ALIASES", "METHODS", "VARIANTS", "VARIANT_PAPERS", "Batch", "Method", "Progress", "StepOutput"]
