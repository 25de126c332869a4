"""Published mIoU in percent on test (val of VOC 2012 and Cityscapes), with the source of each figure.

"Table of a later paper" means that the figure was read there. Protocols differ (output stride, crop size, number of
steps, best epoch on the test list), so a comparison need not reproduce these figures.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

VOC = (92, 183, 366, 732, 1464)  # of the 1464 original, high-quality masks
BLENDED = (662, 1323, 2646, 5291)  # of 10582 original and SBD masks (lists of CPS)
CITYSCAPES = (186, 372, 744, 1488)  # of 2975
ADE20K = (316, 631, 1263, 2526, 5052)  # of 20210 (lists of UniMatch V2)

DUAL_TEACHER_TABLE = "table of Dual Teacher (Na et al., NeurIPS 2023)"
U2PL_TABLE = "re-implemented by U2PL (Wang et al., CVPR 2022)"
U2PL = "U2PL's release (Wang et al., CVPR 2022)"
LATER_TABLE = "table of a later paper"
AUGSEG = "AugSeg's release (Zhao et al., CVPR 2023)"
UNIMATCH = "UniMatch's release (Yang et al., CVPR 2023)"
UNIMATCH_V2 = "UniMatch V2's release, its EMA teacher (Yang et al., 2024)"
RANKMATCH_TABLE = "table of RankMatch (CVPR 2024)"
UNCHECKED = "quoted by later papers, not checked"

# Data set, encoder, numbers of labels -> source -> method -> one figure per number of labels.
Table = dict[str, dict[str, tuple[float, ...]]]
TABLES: dict[tuple[str, str, tuple[int, ...]], Table] = {
    ("voc2012", "resnet50", VOC): {
        DUAL_TEACHER_TABLE: {
            "supervised": (44.03, 52.26, 61.65, 66.72, 72.94),
            "pseudoseg": (54.89, 61.88, 64.85, 70.42, 71.00),
            "pc2seg": (56.90, 64.63, 67.62, 70.90, 72.26),
            "augseg": (64.22, 72.17, 76.17, 77.40, 78.82),
            "unimatch": (71.9, 72.5, 76.0, 77.4, 78.7),
            "dual-teacher": (70.76, 74.53, 76.43, 77.68, 78.15),
        },
        LATER_TABLE: {"fixmatch": (60.1, 67.3, 71.4, 73.7, 76.9)},
    },
    ("voc2012", "resnet101", VOC): {
        LATER_TABLE: {
            "supervised": (45.1, 55.3, 64.8, 69.7, 73.5),
            "mean-teacher": (51.72, 58.93, 63.86, 69.51, 70.96),
            "pc2seg": (57.00, 66.28, 69.78, 73.05, 74.15),
            "fixmatch": (63.9, 73.0, 75.5, 77.8, 79.2),
            "dual-student": (64.07, 67.42, 71.71, 75.88),
            "gentle-teaching-assistant": (70.02, 73.16, 75.57, 78.37, 80.47),
        },
        UNCHECKED: {"pseudoseg": (57.60, 65.50, 69.14, 72.41, 73.23)},
        U2PL: {"u2pl": (67.98, 69.15, 73.66, 76.16, 79.49)},
        U2PL_TABLE: {"cutmix-seg": (52.16, 63.47, 69.46, 73.73, 76.54)},
        AUGSEG: {"augseg": (71.09, 75.45, 78.80, 80.33, 81.36)},
        UNIMATCH: {"unimatch": (75.2, 77.2, 78.8, 79.9, 81.2)},
    },
    ("voc2012", "resnet50", BLENDED): {
        LATER_TABLE: {
            "supervised": (62.4, 68.2, 72.3),
            "fixmatch": (70.6, 73.9, 75.1),
            "unimatch": (75.8, 76.9, 76.8),
        },
        AUGSEG: {"augseg": (74.66, 75.99, 77.16)},
    },
    ("voc2012", "resnet101", BLENDED): {
        LATER_TABLE: {
            "supervised": (67.5, 71.1, 74.2),
            "mean-teacher": (70.59, 73.20, 76.62, 77.61),
            "cutmix-seg": (72.56, 72.69, 74.25, 75.89),
            "fixmatch": (74.3, 76.3, 76.9),
            "dual-student": (74.48, 76.44, 77.68, 78.64),
            "unimatch": (78.1, 78.4, 79.2),
            "u2pl": (74.43, 77.60, 78.70, 79.94),
        },
        AUGSEG: {"augseg": (77.01, 77.31, 78.82)},
    },
    ("voc2012", "vit_small_patch14_dinov2", VOC): {UNIMATCH_V2: {"unimatch-v2": (79.0, 85.5, 85.9, 86.7, 87.8)}},
    ("voc2012", "vit_base_patch14_dinov2", VOC): {UNIMATCH_V2: {"unimatch-v2": (86.3, 87.9, 88.9, 90.0, 90.8)}},
    ("cityscapes", "resnet50", CITYSCAPES): {
        UNIMATCH: {"supervised": (63.3, 70.2, 73.1, 76.6), "unimatch": (75.0, 76.8, 77.5, 78.6)},
        LATER_TABLE: {"fixmatch": (72.6, 75.7, 76.8, 78.2)},
        AUGSEG: {"augseg": (73.73, 76.49, 78.76, 79.33)},
    },
    ("cityscapes", "resnet101", CITYSCAPES): {
        UNIMATCH: {"supervised": (66.3, 72.8, 75.0, 78.0), "unimatch": (76.6, 77.9, 79.2, 79.5)},
        LATER_TABLE: {
            "mean-teacher": (68.08, 73.71, 76.53, 78.59),
            "cutmix-seg": (67.06, 71.83, 76.36, 78.25),
            "fixmatch": (74.2, 76.2, 77.2, 78.4),
            "gentle-teaching-assistant": (69.38, 72.02, 76.08),
        },
        U2PL: {"u2pl": (70.30, 74.37, 76.47, 79.05)},
        "CPS, with CutMix (Chen et al., CVPR 2021)": {"dual-student": (74.72, 77.62, 79.21, 80.21)},
        AUGSEG: {"augseg": (75.22, 77.82, 79.56, 80.43)},
        RANKMATCH_TABLE: {"dual-teacher": (76.8, 78.4, 79.46, 80.5)},
    },
    ("cityscapes", "vit_small_patch14_dinov2", CITYSCAPES): {UNIMATCH_V2: {"unimatch-v2": (80.6, 81.9, 82.4, 82.6)}},
    ("cityscapes", "vit_base_patch14_dinov2", CITYSCAPES): {UNIMATCH_V2: {"unimatch-v2": (83.6, 84.3, 84.5, 85.1)}},
    ("ade20k", "vit_small_patch14_dinov2", ADE20K): {UNIMATCH_V2: {"unimatch-v2": (31.5, 38.1, 40.7, 44.4, 45.8)}},
    ("ade20k", "vit_base_patch14_dinov2", ADE20K): {UNIMATCH_V2: {"unimatch-v2": (38.7, 45.0, 46.7, 49.8, 52.0)}},
}


@dataclass(frozen=True)
class Published:
    """A published mIoU in percent, and its source with the network."""

    miou: float
    source: str


def published(dataset: str, encoder: str, labeled_images: int, method: str) -> Published | None:
    """Return the published figure of a method, or None.

    Args:
        dataset: ``voc2012``, ``cityscapes`` or ``ade20k``.
        encoder: Name in timm or segmentation-models-pytorch; a deep stem (``resnet50s``) counts as the same encoder.
        labeled_images: Number of labeled images.
        method: Name of the method.
    """
    name = re.sub(r"^tu-|\..*$", "", encoder)  # without smp's prefix and timm's tag of the weights
    name = re.sub(r"^(resnet\d+)s$", r"\1", name)
    for (data, of_encoder, numbers), table in TABLES.items():
        if (data, of_encoder) == (dataset, name) and labeled_images in numbers:
            for source, methods in table.items():
                figures = methods.get(method, ())[numbers.index(labeled_images) :]
                if figures:
                    decoder = "DPT" if name.startswith("vit_") else "DeepLabv3+"
                    return Published(figures[0], f"{source}, {decoder} over {name}")
    return None
