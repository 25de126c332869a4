"""Cityscapes (Cordts et al., 2016) in the 19 classes of its benchmark."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from semiseg.data.dataset import Color
from semiseg.data.file_dataset import FileDataset, read_mask_values, value_table
from semiseg.data.files.file_lists import list_files
from semiseg.errors import UserError

# labelId, name and color of the 19 evaluated classes, in the order of their trainIds.
EVALUATED: tuple[tuple[int, str, Color], ...] = (
    (7, "road", (128, 64, 128)),
    (8, "sidewalk", (244, 35, 232)),
    (11, "building", (70, 70, 70)),
    (12, "wall", (102, 102, 156)),
    (13, "fence", (190, 153, 153)),
    (17, "pole", (153, 153, 153)),
    (19, "traffic light", (250, 170, 30)),
    (20, "traffic sign", (220, 220, 0)),
    (21, "vegetation", (107, 142, 35)),
    (22, "terrain", (152, 251, 152)),
    (23, "sky", (70, 130, 180)),
    (24, "person", (220, 20, 60)),
    (25, "rider", (255, 0, 0)),
    (26, "car", (0, 0, 142)),
    (27, "truck", (0, 0, 70)),
    (28, "bus", (0, 60, 100)),
    (31, "train", (0, 80, 100)),
    (32, "motorcycle", (0, 0, 230)),
    (33, "bicycle", (119, 11, 32)),
)
LABEL_IDS = value_table(
    {label: index for index, (label, _, _) in enumerate(EVALUATED)},
    ignored=(*(label for label in range(34) if label not in {row[0] for row in EVALUATED}), 255),
)
TRAIN_IDS = value_table({index: index for index in range(len(EVALUATED))})
MASK_KINDS = {
    "_gtFine_labelIds": (LABEL_IDS, "use the original labelIds file (values 0 to 33)"),
    "_gtFine_labelTrainIds": (TRAIN_IDS, "create the labelTrainIds file again (values 0 to 18 and 255) or remove it"),
}


class Cityscapes(FileDataset):
    """Cityscapes in the 19 classes of its benchmark.

    Masks are ``ID_gtFine_labelTrainIds.png`` if present, else ``ID_gtFine_labelIds.png``, which is mapped to the 19
    classes on reading. Lists of unlabeled images may name images of other folders (``train_extra``). The masks of
    ``test`` are not public. Its mask files are dummies and are not read; publications report ``val``.

    Args:
        root: The folder that holds ``leftImg8bit`` and ``gtFine``.

    Raises:
        UserError: A folder is missing or empty, or two images have the same id.
    """

    images: dict[str, Path]
    masks: dict[str, Path]
    image_ending = "_leftImg8bit"
    tree = (
        "leftImg8bit/{train,val,test}/CITY/ID_leftImg8bit.png",
        "gtFine/{train,val}/CITY/ID_gtFine_labelIds.png or ID_gtFine_labelTrainIds.png",
        "splits/{1_16,...}/{labeled,unlabeled}.txt: optional",
    )

    def __init__(self, root: str | Path) -> None:
        self.name, self.root = "cityscapes", Path(root)
        self.classes = tuple(name for _, name, _ in EVALUATED)
        self.palette = tuple(color for _, _, color in EVALUATED)
        self.images, self.masks = {}, {}
        for city in sorted((self.root / "leftImg8bit").glob("*/*/")):
            self._add_city(city)
        if not self.images:
            raise UserError(
                "no train/CITY/ID_leftImg8bit.png found",
                path=self.root / "leftImg8bit",
                fix="unpack leftImg8bit_trainvaltest.zip",
            )
        if not self.masks:
            raise UserError(
                "no train/CITY/ID_gtFine_labelIds.png of these images found",
                path=self.root / "gtFine",
                fix="unpack gtFine_trainvaltest.zip",
            )
        self.ids = tuple(sorted(self.images))

    def _add_city(self, city: Path) -> None:
        masks = list_files(self.root / "gtFine" / city.parent.name / city.name, (".png",))
        for stem, path in list_files(city, (".png", ".jpg")).items():
            id = stem.removesuffix(self.image_ending)
            if id == stem:
                continue
            if id in self.images:
                raise UserError(f"{self.images[id]} has the same name", path=path, fix="remove one of them")
            self.images[id] = path
            for kind in MASK_KINDS if city.parent.name != "test" else ():  # labelTrainIds replace labelIds
                if f"{id}{kind}" in masks:
                    self.masks[id] = masks[f"{id}{kind}"]

    def split(self, name: str, missing: list[str] | None = None) -> tuple[str, ...] | None:
        """Return the ids of a list: ``splits/NAME.txt``, else the folder ``train`` or ``val``."""
        ids = super().split(name, missing)
        if ids is None and name != "test":
            ids = tuple(id for id in self.ids if self.images[id].parent.parent.name == name) or None
        return ids

    def read_mask(self, id: str) -> Tensor:
        """Read a mask as uint8 ``(H, W)`` of trainIds or 255."""
        path = self.masks[id]
        return read_mask_values(path, *MASK_KINDS[path.stem.removeprefix(id)])


def is_cityscapes_layout(root: str | Path) -> bool:
    """Return whether a folder has the published layout of Cityscapes."""
    return (Path(root) / "leftImg8bit").is_dir()
