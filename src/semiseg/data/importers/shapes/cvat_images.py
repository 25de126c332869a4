"""The export format "CVAT for images 1.1": an XML file with polygons, boxes, ellipses and bitmaps."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from functools import partial
from itertools import chain
from pathlib import Path
from typing import ClassVar, NoReturn
from xml.parsers import expat

import numpy as np

from semiseg.data.files.image_header import reason
from semiseg.data.importers.foreign_data import ImportOptions
from semiseg.data.importers.shapes.drawing import Region, check_corners, fill_ellipse, place
from semiseg.data.importers.shapes.polygons import polygon_region
from semiseg.data.importers.shapes.shape_data import AnnotatedImage, Shape, ShapeData, parse_content
from semiseg.data.importers.source_files import list_word, require_bounded
from semiseg.errors import UserError, require_regular_file

AREAS = ("polygon", "box", "ellipse", "mask")


class CvatImages(ShapeData):
    """CVAT "for images 1.1": ``annotations.xml`` and the images.

    Polygons, boxes, ellipses and masks are drawn in their ``z_order``, in the order of the file where it is equal.
    Polylines, points, skeletons, cuboids and tags have no area and are left out. The classes are ``background`` and the
    labels of the project. The lists are the subsets of the tasks, else files and folders called train, val and test.
    """

    form = "cvat"
    title = 'a CVAT export ("CVAT for images 1.1")'
    tree: ClassVar[tuple[str, ...]] = (
        "annotations.xml",
        "images/NAME.jpg, .png, ...   or in any other folders",
    )

    def __init__(self, root: Path, options: ImportOptions) -> None:
        self._subsets: dict[tuple[Path, str], str] = {}
        super().__init__(root, options)
        entries = {id: (entry.file, entry.image) for id, entry in self._annotation.items()}
        assigned = {id: list_word(self._subsets.get(key, key[0].stem)) for id, key in entries.items()}
        if any(assigned.values()):
            self.set_lists(assigned)

    @classmethod
    def recognizes(cls, root: Path) -> bool:
        """Return whether a folder holds an XML file of CVAT."""
        return bool(xml_files(root))

    def read_annotation(self) -> Iterable[AnnotatedImage]:
        """Read the XML files: labels and images."""
        labels: dict[str, None] = {}
        entries = []
        for path in xml_files(self.root):
            content = read_xml(path)
            if content.find("track") is not None:
                fix = 'export the task as "CVAT for images 1.1"'
                raise UserError('this is "CVAT for video", whose shapes are interpolated', path=path, fix=fix)
            named = (element.text or "" for element in content.findall("meta//labels/label/name"))
            labels |= dict.fromkeys(name.strip() for name in named)
            entries += [
                parse_content(path, "CVAT", partial(self._parse, path, image)) for image in content.iter("image")
            ]
        self._tool_classes = tuple(labels)
        return entries

    def class_source(self) -> Path:
        """Return the first XML file."""
        return xml_files(self.root)[0]

    def _parse(self, path: Path, image: ET.Element) -> AnnotatedImage:
        name = image.attrib["name"]
        if subset := image.get("subset"):
            self._subsets[path, name] = subset
        drawn = [element for element in image if element.tag in AREAS]
        drawn.sort(key=lambda element: int(element.get("z_order", 0)))
        shapes = [Shape(element.attrib["label"], partial(draw, dict(element.attrib), element.tag)) for element in drawn]
        size = int(image.attrib["width"]), int(image.attrib["height"])
        return AnnotatedImage(name, path, shapes, size, [element.tag for element in image if element.tag not in AREAS])


def draw(shape: dict[str, str], kind: str, height: int, width: int) -> Region:
    """Return the pixels of a shape as bool ``(H, W)``, as in the masks that CVAT exports (by pycocotools and OpenCV).

    Raises:
        ValueError: The shape is malformed; other exceptions of ``MALFORMED`` too.
    """
    turn = math.radians(float(shape.get("rotation", 0)))
    if kind == "polygon":
        corners = [tuple(map(float, corner.split(","))) for corner in shape["points"].split(";")]
        return polygon_region([list(chain(*check_corners(corners, height, width)))], height, width)
    if kind == "ellipse":
        center, radii = ([float(shape[key]) for key in keys] for keys in (("cx", "cy"), ("rx", "ry")))
        radii = [round(radius) or radius for radius in radii]  # a small ellipse covers its center
        return fill_ellipse(list(map(round, center)), radii, turn, height, width)
    if kind == "mask":
        column, row, across, down = (int(shape[key]) for key in ("left", "top", "width", "height"))
        lengths = [int(length) for length in shape["rle"].split(",")]
        if min(lengths) < 0 or sum(lengths) != across * down or across * down > height * width:
            raise ValueError(f"its run lengths cover {sum(lengths)} pixels instead of {across} x {down}")
        inside = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
        return place(inside.reshape(down, across), column, row, height, width)
    left, top, right, bottom = (float(shape[key]) for key in ("xtl", "ytl", "xbr", "ybr"))
    x, y = (left + right) / 2, (top + bottom) / 2
    sides = [(a - x, b - y) for a, b in ((left, top), (right, top), (right, bottom), (left, bottom))]
    cos, sin = math.cos(turn), math.sin(turn)
    corners = [(x + a * cos - b * sin, y + a * sin + b * cos) for a, b in sides]
    return polygon_region([list(chain(*corners))], height, width)


def read_xml(path: Path) -> ET.Element:
    """Parse an XML file without document type: entities could expand without bound or name other files.

    Raises:
        UserError: The file cannot be read, is malformed, or declares a document type.
    """
    require_bounded(path)
    builder, parser = ET.TreeBuilder(), expat.ParserCreate()

    def refuse(*_: object) -> NoReturn:
        fix = "export it from CVAT again"
        raise UserError("the XML declares a document type, which exports do not", path=path, fix=fix)

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        with require_regular_file(path).open("rb") as file:
            parser.ParseFile(file)
        return builder.close()
    except (OSError, ValueError, expat.ExpatError, RecursionError) as error:
        problem = f"cannot be read as XML ({type(error).__name__}: {reason(error)})"
        raise UserError(problem, path=path, fix="export it from CVAT again") from error


def xml_files(root: Path) -> list[Path]:
    """Return the XML files of CVAT in a folder and one level below, sorted."""
    files = [path for pattern in ("*.xml", "*/*.xml") for path in sorted(root.glob(pattern)) if path.is_file()]
    found = []
    for path in files:
        with path.open("rb") as file:
            start = file.read(20_000)
        if b"<annotations>" in start and any(word in start for word in (b"<image", b"<track", b"<version>")):
            found.append(path)
    return found
