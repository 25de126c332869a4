"""Fuzz tests: readers of arbitrary files and values raise only UserError, and read what was written.

The test suite uses a few fixed examples. ``make fuzz MINUTES=60`` generates new examples for an hour.
"""

from __future__ import annotations

import contextlib
import io
import pickle
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import strategies as st
from PIL import Image

from fuzzing import corrupted, damaged, documents, fuzz, lines_of, names, paths, scalars, to_json
from semiseg.cli.train import train
from semiseg.config import TrainConfig, from_mapping, read_yaml, to_mapping
from semiseg.data import FolderDataset, SegmentationDataset, Shapes, open_dataset, resolve_split
from semiseg.data.importers import ImportOptions
from semiseg.data.importers.cvat import read_labelmap
from semiseg.data.importers.shapes.coco import Coco
from semiseg.data.importers.shapes.coco_panoptic import CocoPanoptic
from semiseg.data.importers.shapes.cvat_images import CvatImages
from semiseg.data.importers.shapes.darwin import Darwin
from semiseg.data.importers.shapes.label_studio import LabelStudio
from semiseg.data.importers.shapes.labelme import LabelMe
from semiseg.data.importers.shapes.polygons import brush_region, counts_region, polygon_region
from semiseg.data.importers.shapes.supervisely import Supervisely
from semiseg.data.importers.shapes.via import Via
from semiseg.data.importers.shapes.yolo import Yolo
from semiseg.data.palette_file import read_palette
from semiseg.data.splits.list_files import read_lines, read_list, read_permutation, write_list
from semiseg.data.stream.shards import parse_index
from semiseg.data.stream.tar_files import read_image, read_members
from semiseg.data.tag_file import read_tags, write_tags
from semiseg.errors import UserError
from semiseg.inference.formats.label_studio_results import encode_brush
from semiseg.methods import METHODS
from semiseg.methods.supervised import Supervised
from semiseg.networks import build
from semiseg.tools.models.trained_model import read_checkpoint
from semiseg.training.checkpoint import load_checkpoint, save_checkpoint

pytestmark = pytest.mark.slow  # whole commands, trainings or exports

SHAPES = Shapes(images=6, val=1, test=1, size=48)
OPTIONS = [*to_mapping(TrainConfig(), *(kind.Options() for kind in METHODS.values()))]


@contextlib.contextmanager
def only_user_errors() -> Iterator[None]:
    """Suppress UserError, whose message must not be empty."""
    try:
        yield
    except UserError as error:
        assert str(error).strip()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a plain folder of two images, one of them with a mask. Tests write further files into it."""
    root = tmp_path_factory.mktemp("fuzz")
    for name in ("images", "masks"):
        (root / name).mkdir()
    for name in ("a", "b"):
        Image.fromarray(np.full((6, 8, 3), 9, dtype=np.uint8)).save(root / "images" / f"{name}.png")
    Image.fromarray(np.eye(6, 8, dtype=np.uint8)).save(root / "masks" / "a.png")
    return root


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content)
    return path


# Lists.


@fuzz(content=st.one_of(st.binary(), lines_of("train00001", "train00002", "\\", "_gtFine", "\r", "\x85", "\u2028")))
def test_list_files(folder: Path, content: Any) -> None:
    path = write(folder / "list.txt", content)
    with only_user_errors():
        ids = read_list(path, SHAPES)
        assert {*ids} <= {*SHAPES.ids} and len({*ids}) == len(ids)
        write_list(path, ids)
        assert read_list(path, SHAPES) == ids


@fuzz(ids=st.lists(names.filter(lambda id: id == id.strip() and id and not {*id} & {*"\r\n/\ufeff"}), unique=True))
def test_list_file_round_trip(folder: Path, ids: list[str]) -> None:
    write_list(folder / "written.txt", ids)
    assert read_lines(folder / "written.txt") == tuple(ids)


PICKLES = [pickle.dumps(np.random.default_rng(0).permutation(6), protocol=protocol) for protocol in (0, 2, 3, 4)]


@fuzz(content=st.one_of(st.binary(), *map(damaged, PICKLES)))
def test_permutations(folder: Path, content: bytes) -> None:
    path = write(folder / "split.pkl", content)
    with only_user_errors():
        assert sorted(order := read_permutation(path)) == list(range(len(order)))


@fuzz(
    labeled=st.one_of(
        names, paths, lines_of("1/16", "0", "split_0.pkl:"), st.sampled_from(["1/0", "9" * 5000, "x.pkl:" + "9" * 5000])
    )
)
def test_labeled_option(folder: Path, labeled: str) -> None:
    with only_user_errors():
        split = resolve_split(SHAPES, labeled, 0)
        assert split.labeled


@fuzz(data=st.one_of(paths, lines_of("shapes:", "images=", "9" * 5000, "size=48", "hf:")), examples=20)
def test_data_option(folder: Path, data: str) -> None:
    if not data.startswith("hf:"):  # would look up names on the hub
        with only_user_errors():
            open_dataset(data)


# Classes, colors, tags.


@fuzz(
    content=st.one_of(
        st.binary(), lines_of("tree 0 128 0", "car,1,2,3", "void", "name,r,g,b", "9" * 5000, "٣", " " * 3000)
    )
)
def test_palettes(folder: Path, content: Any) -> None:
    path = write(folder / "p.txt", content)
    with only_user_errors():
        palette = read_palette(path)
        assert len(palette.names) == len(palette.colors) and palette.known
        assert all(0 <= value <= 255 for color in palette.colors for value in color)


@fuzz(content=st.one_of(st.binary(), lines_of("tree:0,128,0::", "car:1,2,3:", "background:", "9" * 5000, "²")))
def test_labelmaps(folder: Path, content: Any) -> None:
    with only_user_errors():
        assert read_labelmap(write(folder / "labelmap.txt", content)).known


CLASSES = {"classes": ["a", "b"], "palette": [[0, 0, 0], [1, 2, 3]], "ignore": 255}


@fuzz(content=st.one_of(st.binary(), documents.map(to_json), corrupted(CLASSES).map(to_json), st.just("[" * 100_000)))
def test_class_files(folder: Path, content: Any) -> None:
    write(folder / "classes.json", content)
    with only_user_errors():
        dataset = FolderDataset(folder)
        assert all(isinstance(name, str) for name in dataset.classes)
        dataset.read_mask("a")
    (folder / "classes.json").unlink()


@fuzz(content=st.one_of(st.binary(), lines_of("image", "tags", "car", "tree", "a", "b", '"', "?", "1", "0")))
def test_tag_files(folder: Path, content: Any) -> None:
    path = write(folder / "tags-in.csv", content)
    with only_user_errors():
        tags = read_tags(path, ("car", "tree"), ("a", "b"))
        write_tags(path, ("car", "tree"), tags)
        assert read_tags(path, ("car", "tree"), ("a", "b")) == tags


plain_names = names.filter(lambda name: name and name == name.strip() and "\r" not in name)


@fuzz(
    classes=st.lists(plain_names, min_size=2, max_size=4, unique=True),
    values=st.lists(st.integers(-1, 1), min_size=4, max_size=4),
)
def test_tag_file_round_trip(folder: Path, classes: list[str], values: list[int]) -> None:
    tags = {"a": (1, *values[1 : len(classes)]), "b c": (-1, *values[1 : len(classes)])}
    write_tags(folder / "tags-out.csv", tuple(classes), tags)
    assert read_tags(folder / "tags-out.csv", tuple(classes), tags) == tags


# Run lengths and polygons.


@fuzz(
    counts=st.one_of(documents, st.lists(st.integers(-1, 50)), names, st.just("o" * 300_000), st.just([0] * 300_000)),
    size=st.one_of(st.none(), documents, st.just([6, 8])),
)
def test_coco_run_lengths(folder: Path, counts: Any, size: Any) -> None:
    with contextlib.suppress(ValueError):
        assert counts_region(counts, size, 6, 8).shape == (6, 8)


@fuzz(seed=st.integers(0, 2**32 - 1), share=st.floats(0, 1), height=st.integers(1, 40), width=st.integers(1, 40))
def test_run_length_round_trip(folder: Path, seed: int, share: float, height: int, width: int) -> None:
    from pycocotools import mask as coco

    region = np.random.default_rng(seed).random((height, width)) < share
    assert (brush_region(encode_brush(region), height, width) == region).all()
    written = coco.encode(np.asfortranarray(region.astype(np.uint8)))
    assert (counts_region(written["counts"].decode(), written["size"], height, width) == region).all()
    flat = region.T.ravel()
    edges = [0, *(np.flatnonzero(np.diff(flat)) + 1).tolist(), len(flat)]
    lengths = [0] * bool(flat[0]) + np.diff(edges).tolist()
    assert (counts_region(lengths, [height, width], height, width) == region).all()


BRUSH = encode_brush(np.eye(6, 8) > 0)


@fuzz(rle=st.one_of(documents, damaged(bytes(BRUSH)).map(list), corrupted({"rle": BRUSH})))
def test_brush_run_lengths(folder: Path, rle: Any) -> None:
    with contextlib.suppress(ValueError):
        assert brush_region(rle.get("rle") if isinstance(rle, dict) else rle, 6, 8).shape == (6, 8)


@fuzz(polygons=st.one_of(st.lists(documents), st.lists(st.lists(st.floats(-100, 100), max_size=9), max_size=3)))
def test_polygons(folder: Path, polygons: list[Any]) -> None:
    with contextlib.suppress(ValueError):
        assert polygon_region(polygons, 6, 8).shape == (6, 8)


# Annotation files.


COCO = {
    "images": [{"id": 1, "file_name": "a.png", "width": 8, "height": 6}, {"id": 2, "file_name": "b.png"}],
    "categories": [{"id": 1, "name": "car"}, {"id": 7, "name": "tree"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 7, "iscrowd": 0, "segmentation": [[0, 0, 4, 0, 4, 4]]},
        {"id": 2, "image_id": 2, "category_id": 1, "segmentation": {"counts": [3, 40, 5], "size": [6, 8]}},
    ],
}


def read_all(dataset: SegmentationDataset) -> None:
    for id in dataset.ids:
        if dataset.has_mask(id):
            with only_user_errors():
                assert dataset.read_mask(id).shape == (6, 8)


@fuzz(content=st.one_of(corrupted(COCO).map(to_json), documents.map(to_json), st.binary()), examples=80)
def test_coco(folder: Path, content: Any) -> None:
    root = folder / "coco"
    if not root.exists():
        shutil.copytree(folder / "images", root / "images")
        (root / "annotations").mkdir()
    write(root / "annotations" / "instances_x.json", content)
    with only_user_errors():
        read_all(Coco(root, ImportOptions()))


PANOPTIC = {
    "images": [{"id": 1, "file_name": "a.png"}],
    "categories": [{"id": 3, "name": "car", "isthing": 1}],
    "annotations": [{"image_id": 1, "file_name": "a.png", "segments_info": [{"id": 1, "category_id": 3}]}],
}


@fuzz(content=st.one_of(corrupted(PANOPTIC).map(to_json), documents.map(to_json), st.binary()), examples=60)
def test_coco_panoptic(folder: Path, content: Any) -> None:
    root = folder / "panoptic"
    if not root.exists():
        shutil.copytree(folder / "images", root / "images")
        shutil.copytree(folder / "masks", root / "panoptic_x")
    write(root / "panoptic_x.json", content)
    with only_user_errors():
        read_all(CocoPanoptic(root, ImportOptions()))


LABELME = {
    "shapes": [
        {"label": "car", "shape_type": "polygon", "points": [[0, 0], [4, 0], [4, 4]]},
        {"label": "car", "shape_type": "rectangle", "points": [[0, 0], [4, 4]]},
        {"label": "car", "shape_type": "circle", "points": [[3, 3], [4, 4]]},
        {"label": "car", "shape_type": "mask", "points": [[0, 0], [1, 1]], "mask": "iVBORw0KGgo="},
    ],
    "imagePath": "a.png",
    "imageData": "iVBORw0KGgo=",
    "imageHeight": 6,
    "imageWidth": 8,
}


@fuzz(content=st.one_of(corrupted(LABELME).map(to_json), documents.map(to_json), st.binary()), examples=80)
def test_labelme(folder: Path, content: Any) -> None:
    root = folder / "labelme"
    if not root.exists():
        shutil.copytree(folder / "images", root)
    write(root / "a.json", content)
    with only_user_errors():
        read_all(LabelMe(root, ImportOptions()))


@fuzz(content=lines_of("0 0.1 0.2", "0.3 0.4", "1 0.5 0.5 0.1 0.1", "nan", "\0", "9" * 400), examples=60)
def test_yolo(folder: Path, content: str) -> None:
    root = folder / "yolo"
    if not root.exists():
        shutil.copytree(folder / "images", root / "images")
        (root / "labels").mkdir()
        (root / "data.yaml").write_text("names: [car, tree]\ntrain: images\n")
    write(root / "labels" / "a.txt", content)
    with only_user_errors():
        read_all(Yolo(root, ImportOptions()))


CVAT = """<?xml version="1.0"?><annotations><version>1.1</version><image name="a.png" width="8" height="6">
<polygon label="car" points="0,0;4,0;4,4" z_order="1"/><box label="tree" xtl="1" ytl="1" xbr="3" ybr="3"/>
<mask label="car" rle="1,2,3" left="0" top="0" width="3" height="2"/><ellipse label="a" cx="3" cy="3" rx="1" ry="2"/>
</image></annotations>"""


@fuzz(content=st.one_of(damaged(CVAT.encode()), st.binary()), examples=100)
def test_cvat_images(folder: Path, content: bytes) -> None:
    root = folder / "cvat"
    if not root.exists():
        shutil.copytree(folder / "images", root / "images")
    write(root / "annotations.xml", content)
    with only_user_errors():
        read_all(CvatImages(root, ImportOptions()))


OBJECT = {
    "classTitle": "car",
    "geometryType": "polygon",
    "points": {"exterior": [[0, 0], [4, 0], [4, 4]], "interior": []},
}
PROJECT = {
    "size": {"height": 6, "width": 8},
    "objects": [
        OBJECT,
        OBJECT | {"geometryType": "rectangle", "points": {"exterior": [[1, 1], [2, 2]]}},
        OBJECT | {"geometryType": "bitmap", "bitmap": {"data": "eJwDAAAAAAE=", "origin": [1, 1]}},
    ],
}


@fuzz(content=st.one_of(corrupted(PROJECT).map(to_json), documents.map(to_json), st.binary()), examples=80)
def test_supervisely(folder: Path, content: Any) -> None:
    root = folder / "supervisely"
    if not root.exists():
        shutil.copytree(folder / "images", root / "img")
        (root / "ann").mkdir()
        (root / "meta.json").write_text('{"classes": [{"title": "car"}]}')
    write(root / "ann" / "a.png.json", content)
    with only_user_errors():
        read_all(Supervisely(root, ImportOptions()))


POINTS = [{"x": 0, "y": 0}, {"x": 4, "y": 0}, {"x": 4, "y": 4}]
DARWIN = {
    "item": {"name": "a.png", "path": "/", "slots": [{"width": 8, "height": 6}]},
    "annotations": [
        {"id": "1", "name": "car", "polygon": {"paths": [POINTS]}},
        {"id": "2", "name": "car", "ellipse": {"center": POINTS[0], "radius": POINTS[2], "angle": 1}},
        {"id": "3", "name": "tree", "mask": {}},
        {"id": "4", "name": "", "raster_layer": {"dense_rle": [0, 40, 1, 8], "mask_annotation_ids_mapping": {"3": 1}}},
    ],
}


@fuzz(content=st.one_of(corrupted(DARWIN).map(to_json), documents.map(to_json), st.binary()), examples=80)
def test_darwin(folder: Path, content: Any) -> None:
    root = folder / "darwin"
    if not root.exists():
        shutil.copytree(folder / "images", root / "images")
    write(root / "a.json", content)
    with only_user_errors():
        read_all(Darwin(root, ImportOptions()))


REGIONS = [
    {"shape_attributes": shape, "region_attributes": {"class": "car"}}
    for shape in (
        {"name": "polygon", "all_points_x": [0, 4, 4], "all_points_y": [0, 0, 4]},
        {"name": "rect", "x": 1, "y": 1, "width": 2, "height": 2},
        {"name": "ellipse", "cx": 3, "cy": 3, "rx": 2, "ry": 1, "theta": 0.5},
    )
]
VIA = {"a.png1": {"filename": "a.png", "size": 1, "regions": REGIONS}}


@fuzz(content=st.one_of(corrupted(VIA).map(to_json), documents.map(to_json), st.binary()), examples=80)
def test_via(folder: Path, content: Any) -> None:
    root = folder / "via"
    if not root.exists():
        shutil.copytree(folder / "images", root / "images")
    write(root / "via.json", content)
    with only_user_errors():
        read_all(Via(root, ImportOptions()))


TASKS = [
    {
        "id": 1,
        "data": {"image": "/data/upload/a.png"},
        "annotations": [
            {
                "id": 4,
                "ground_truth": False,
                "result": [
                    {
                        "original_width": 8,
                        "original_height": 6,
                        "image_rotation": 0,
                        "value": {"points": [[0, 0], [50, 0], [50, 50]], "polygonlabels": ["car"]},
                    }
                ],
            }
        ],
    },
    {
        "id": 2,
        "image": "b.png",
        "annotation_id": "9",
        "tag": [{"rle": BRUSH, "original_width": 8, "original_height": 6, "brushlabels": ["tree"]}],
    },
]


@fuzz(content=st.one_of(corrupted(TASKS).map(to_json), documents.map(to_json), st.binary()), examples=80)
def test_label_studio(folder: Path, content: Any) -> None:
    root = folder / "studio"
    if not root.exists():
        shutil.copytree(folder / "images", root / "images")
    write(root / "project.json", content)
    with only_user_errors():
        read_all(LabelStudio(root, ImportOptions()))


@fuzz(content=lines_of("annotation_id", "annotator", "id,image", "1,a.png", '"', "\r", "\0"), suffix=names)
def test_label_studio_tables(folder: Path, content: str, suffix: str) -> None:
    root = folder / "tables"
    if not root.exists():
        shutil.copytree(folder / "images", root / "images")
        Image.fromarray(np.eye(6, 8, dtype=np.uint8)).save(root / "task-1-annotation-2-by-1-tag-car-0.png")
    write(root / "project.csv", f"annotation_id,annotator,id,image\n{content}{suffix}")
    with only_user_errors():
        read_all(LabelStudio(root, ImportOptions()))


INDEX = {"shardlist": [{"url": "a.tar", "nsamples": 3, "filesize": 2048}, {"url": "b/c.tar", "nsamples": 2}]}


@fuzz(content=st.one_of(corrupted(INDEX).map(to_json), documents.map(to_json), st.binary()))
def test_shard_indexes(folder: Path, content: Any) -> None:
    path = write(folder / "index.json", content)
    with only_user_errors():
        shards = parse_index(str(path), path.read_bytes())
        assert 0 < len(shards) < 2**62
        assert all(".." not in Path(shards.place(number)).parts for number in range(len(shards.names)))


@fuzz(data=st.data(), content=st.one_of(st.binary(), st.none()))
def test_shards(folder: Path, data: st.DataObject, content: bytes | None) -> None:
    pytest.importorskip("webdataset")
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as tar:
        for name in ("a", "b"):
            tar.add(folder / "images" / f"{name}.png", f"{name}.png")
    path = write(folder / "shard.tar", data.draw(damaged(whole.getvalue())) if content is None else content)
    with only_user_errors():
        for key, where in read_members(path, str(path)).items():
            with only_user_errors():
                assert read_image(str(path), 0, key, path, where).pixels.shape[0] == 3


def test_unmodified_documents_are_valid(folder: Path, tmp_path: Path) -> None:
    """Otherwise the tests above would only reach the first validation step."""
    for kind, content in ((Coco, COCO), (LabelStudio, TASKS)):
        root = tmp_path / kind.__name__
        shutil.copytree(folder / "images", root / "images")
        write(root / "all.json", to_json(content))
        dataset = kind(root, ImportOptions())
        assert [bool((dataset.read_mask(id) > 0).any()) for id in ("a", "b")] == [True, True]
    assert len(parse_index("index.json", to_json(INDEX).encode())) == 5
    for name in ("images", "masks"):
        shutil.copytree(folder / name, tmp_path / "own" / name)
    write(tmp_path / "own" / "classes.json", to_json(CLASSES))
    assert FolderDataset(tmp_path / "own").classes == ("a", "b")


# Configuration.


REFERENCES = [f"{c}: &{c} [{', '.join([f'*{p}'] * 9)}]" for p, c in zip("abcdefghij", "bcdefghijk", strict=True)]
yaml_texts = st.one_of(
    st.binary(),
    lines_of("lr: ", "steps: ", "2001-99-99", "1:99:99", "&a", "*a", "!!python/name:os.system", "[", "{", "0x", "- "),
    documents.map(to_json),
    st.sampled_from(["[" * 5000, "- " * 5000, "\n".join(["a: &a [x]", *REFERENCES, "lr: *k"]), "lr: " + "9" * 5000]),
)


@fuzz(content=yaml_texts)
def test_yaml(folder: Path, content: Any) -> None:
    path = write(folder / "config.yaml", content)
    with only_user_errors():
        values = read_yaml(path)
        from_mapping((TrainConfig,), values, str(path))


@fuzz(values=st.dictionaries(st.sampled_from(OPTIONS), scalars, max_size=4), method=st.sampled_from([*METHODS]))
def test_configuration_round_trip(folder: Path, values: dict[str, Any], method: str) -> None:
    kinds, path = (TrainConfig, METHODS[method].Options), folder / "config.yaml"
    with only_user_errors():
        parts = from_mapping(kinds, values, "values")
        path.write_text(yaml.safe_dump(to_mapping(*parts), allow_unicode=True), encoding="utf-8")
        assert repr(from_mapping(kinds, read_yaml(path), str(path))) == repr(parts)  # repr: NaN is not equal to itself


@fuzz(
    option=st.sampled_from(OPTIONS), value=st.one_of(names, scalars.map(str), st.just("9" * 4000), paths), examples=20
)
def test_command_lines(folder: Path, option: str, value: str) -> None:
    with pytest.MonkeyPatch.context() as patch, only_user_errors():
        patch.setattr("semiseg.workflows.train.train_with", lambda *_: Path("run"))
        patch.setattr("semiseg.tools.report.run_files.result_line", lambda _: "")
        with contextlib.suppress(SystemExit):
            train(["--data", "shapes", f"--{option.replace('_', '-')}", value])


# Checkpoints and exports.


@pytest.fixture(scope="module")
def saved(folder: Path) -> Path:
    config = TrainConfig(method="supervised", encoder="test_resnet", weights="none")
    method = Supervised(lambda: build(config.architecture, config.encoder, 2, "none"), 2, Supervised.Options())
    state = {"format": 1, "step": 1, "best": {"miou": 1.0, "step": 1}, "config": to_mapping(config, method.options)}
    state |= {"classes": ["a", "b"], "palette": [[0, 0, 0], [1, 1, 1]], "method": method.state_dict()}
    save_checkpoint(folder / "good.pt", state)
    return folder / "good.pt"


HEADER = {
    "format": 1,
    "step": 1,
    "best": {"miou": 1.0, "step": 1},
    "config": to_mapping(TrainConfig(method="supervised", encoder="test_resnet"), Supervised.Options()),
    "classes": ["a", "b"],
    "palette": [[0, 0, 0], [1, 1, 1]],
}


@fuzz(content=st.binary(), header=corrupted(HEADER), examples=20)
def test_checkpoints(folder: Path, content: bytes, header: dict[str, Any]) -> None:
    with only_user_errors():
        load_checkpoint(write(folder / "bytes.pt", content))
    torch.save(header | {"method": {}}, folder / "header.pt")
    with only_user_errors():
        read_checkpoint(folder / "header.pt")
