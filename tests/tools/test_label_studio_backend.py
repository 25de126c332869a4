"""``semiseg serve --label-studio``: the backend protocol, labels, polygons, and the images that it may read."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import semiseg
from semiseg.data.importers.shapes.polygons import brush_region, polygon_region
from semiseg.errors import UserError
from semiseg.workflows.serve import serve

backend = pytest.importorskip("semiseg.tools.serving.label_studio_app", exc_type=ImportError)
from fastapi.testclient import TestClient  # noqa: E402

from semiseg.inference.formats.outlines import outlines  # noqa: E402
from semiseg.tools.serving.label_studio_config import ConfigError, find_control  # noqa: E402
from semiseg.tools.serving.label_studio_images import ImageSource  # noqa: E402

CLASSES = ("background", "circle", "square", "triangle", "star", "cross", "ring")
BRUSH = """<View>
  <Image name="photo" value="$picture" zoom="true"/>
  <BrushLabels name="mask" toName="photo">
    <Label value="Circle" background="red"/><Label value="square"/><Label value="TRIANGLE"/><Label value="star"/>
    <Label value="Background"/><Label value="other"/>
  </BrushLabels>
</View>"""
POLYGON = BRUSH.replace("BrushLabels", "PolygonLabels")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = {"encoder": "test_resnet", "weights": "none", "steps": 1, "workers": 0, "accelerator": "cpu"}
    data, small = "shapes:images=4,val=1,test=1,size=48", {"crop_size": 48, "batch_size": 2}
    run = semiseg.train(data, "supervised", tmp_path_factory.mktemp("runs") / "flowers", **options | small)
    best = run / "checkpoints" / "best.pt"
    state = torch.load(best, weights_only=True)
    for name, value in state["method"].items():
        if name.endswith("head.weight"):
            value.copy_(torch.randn(value.shape, generator=torch.Generator().manual_seed(1)))
    torch.save(state, best)
    return run


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A directory of local files with an image, and an image outside of it."""
    (tmp_path / "files" / "day 1").mkdir(parents=True)
    blocks = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    for path in (tmp_path / "files" / "day 1" / "a b.png", tmp_path / "secret.png"):
        Image.fromarray(blocks).resize((100, 80), Image.Resampling.BICUBIC).save(path)
    return tmp_path / "files"


def client(run: Path, images: ImageSource, token: str | None = None) -> TestClient:
    app = backend.make_label_studio_app(backend.LabelStudioBackend(semiseg.load(run, accelerator="cpu"), images), token)
    return TestClient(app, base_url="http://127.0.0.1:7860")


def request(*references: str, config: str = BRUSH) -> dict[str, Any]:
    """A request as Label Studio 1.23 sends it to /predict."""
    tasks = [
        {"id": 7 + number, "data": {"picture": reference}, "meta": {}, "annotations": [], "predictions": []}
        for number, reference in enumerate(references)
    ]
    params = {"login": None, "password": None, "context": None}
    return {"tasks": tasks, "model_version": None, "project": "1.1764406700", "label_config": config, "params": params}


LOCAL = "/data/local-files/?d=day%201/a%20b.png"


def test_health_setup_and_versions(run: Path, files: Path) -> None:
    api = client(run, ImageSource(files))
    version = {"model_version": "flowers-student-step1"}
    assert api.get("/health").json() == {"status": "UP", "model_class": "semiseg"} | version
    setup = {
        "project": "1.1764406700",
        "schema": BRUSH,
        "hostname": "http://localhost:8080",
        "access_token": "0123456789",
        "extra_params": None,
    }
    answer = api.post("/setup", json=setup)
    assert (answer.status_code, answer.json()) == (200, version)
    assert api.get("/versions").json() == {"versions": ["flowers-student-step1"]}
    assert api.post("/webhook", json={"action": "ANNOTATION_CREATED"}).status_code == 200
    without_config = request(LOCAL) | {"label_config": ""}
    assert api.post("/predict", json=without_config).json()["results"][0]["result"]  # that of /setup is used


def test_brush_strokes_are_the_prediction_of_the_run(run: Path, files: Path) -> None:
    content = client(run, ImageSource(files)).post("/predict", json=request(LOCAL)).json()
    (prediction,) = content["results"]
    expected, confidence = semiseg.load(run, accelerator="cpu")(files / "day 1" / "a b.png")
    assert prediction["model_version"] == "flowers-student-step1"
    assert prediction["score"] == pytest.approx(float(confidence.mean()), abs=0.005)
    labels = {"Circle": 1, "square": 2, "TRIANGLE": 3, "star": 4, "Background": 0}
    seen = set()
    for result in prediction["result"]:
        assert (result["from_name"], result["to_name"], result["type"]) == ("mask", "photo", "brushlabels")
        assert (result["original_width"], result["original_height"]) == (100, 80)
        (label,) = result["value"]["brushlabels"]
        region = brush_region(result["value"]["rle"], 80, 100)
        assert np.array_equal(region, expected.numpy() == labels[label])
        seen.add(labels[label])
    assert seen == {*np.unique(expected)} & {*labels.values()} and len(seen) > 1


def test_polygons_enclose_the_regions(run: Path, files: Path) -> None:
    content = client(run, ImageSource(files)).post("/predict", json=request(LOCAL, config=POLYGON)).json()
    expected = semiseg.load(run, accelerator="cpu")(files / "day 1" / "a b.png").mask.numpy()
    rendered = np.zeros((7, 80, 100), dtype=bool)
    for result in content["results"][0]["result"]:
        assert (result["from_name"], result["type"]) == ("mask", "polygonlabels")
        points = np.array(result["value"]["points"]) * (1, 0.8)
        label = CLASSES.index(result["value"]["polygonlabels"][0].lower())
        rendered[label] |= polygon_region([points.ravel().tolist()], 80, 100)
    for label in (0, 1, 2, 3, 4):
        region = expected == label
        if region.sum() > 400:  # holes are filled, and outlines simplified
            assert (rendered[label] & region).sum() > 0.9 * region.sum()
    assert rendered.any()


def test_outlines_are_exact_for_rectangles_and_skip_holes_and_specks() -> None:
    region = np.zeros((30, 40), dtype=bool)
    region[5:20, 0:10] = True
    region[8:12, 3:7] = False  # a hole
    region[25, 35] = True  # a speck
    (points,) = outlines(region)
    corners = {(0, 5), (10, 5), (10, 20), (0, 20)}
    assert all(min(abs(points - corner).sum(axis=1)) <= 1 for corner in corners) and len(points) <= 9
    assert list(outlines(np.zeros((5, 5), dtype=bool))) == []


def test_labels_match_classes_without_case_spaces_and_hyphens() -> None:
    config = (
        '<View><Image name="i" value="$x"/><BrushLabels name="t" toName="i"><Label value="Street Light"/></BrushLabels>'
    )
    control = find_control(config + "</View>", ("sky", "street-light"))
    assert (control.from_name, control.to_name, control.key, control.labels) == ("t", "i", "x", {1: "Street Light"})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("<View>", "is not valid XML"),
        ('<View><Image name="i" value="$x"/></View>', "neither BrushLabels nor PolygonLabels"),
        (BRUSH.replace('toName="photo"', 'toName="other"'), "neither BrushLabels nor PolygonLabels"),
        (
            BRUSH,
            "none of the labels is a class of the model (labels: Circle, square, TRIANGLE, star, Background, other;",
        ),
        ('<!DOCTYPE x [<!ENTITY a "b">]><View/>', "declares a document type"),
    ],
)
def test_interfaces_that_cannot_show_masks_are_refused(run: Path, files: Path, config: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        find_control(config, ("sky", "road"))
    assert message in str(error.value)


def test_a_refused_interface_is_an_error_of_setup_and_predict(
    run: Path, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    api = client(run, ImageSource(files))
    for answer in (
        api.post("/setup", json={"schema": "<View/>"}),
        api.post("/predict", json=request(config="<View/>")),
    ):
        assert answer.status_code == 422 and "neither BrushLabels nor PolygonLabels" in answer.json()["error"]
    assert capsys.readouterr().err.count("refused: the labeling interface has neither BrushLabels nor") == 2
    assert api.post("/predict", json={"tasks": "all"}).status_code == 422


def data_uri(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def test_unreadable_images_leave_their_task_empty(run: Path, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (files / "broken.png").write_bytes(b"no image")
    references = (
        data_uri(files / "day 1" / "a b.png"),
        "/data/local-files/?d=../secret.png",
        "/data/local-files/?d=%2Fetc%2Fpasswd",
        "http://169.254.169.254/latest/meta-data",
        "s3://bucket/a.png",
        "/data/local-files/?d=broken.png",
        "data:image/png,abc",
        "day 1/a b.png",
    )
    content = client(run, ImageSource(files)).post("/predict", json=request(*references)).json()
    assert [bool(one["result"]) for one in content["results"]] == [True, *[False] * 6, True]
    printed = capsys.readouterr().err.splitlines()
    assert len(printed) == 6
    for line, text in zip(
        printed,
        (
            "../secret.png: is not below --label-studio-root",
            "passwd: is not below --label-studio-root",
            "is on http://169.254.169.254. Pass --label-studio-url if you trust it",
            "is on s3://bucket",
            "broken.png: the image cannot be read",
            "the data URI is not base64",
        ),
        strict=True,
    ):
        assert text in line


def test_links_that_leave_the_directory_are_refused(files: Path) -> None:
    (files / "link.png").symlink_to(files.parent / "secret.png")
    with pytest.raises(UserError, match="is not below --label-studio-root"):
        ImageSource(files).open("link.png")
    assert ImageSource(files).open("/data/day 1/a b.png") == files / "day 1" / "a b.png"


@pytest.fixture
def label_studio(files: Path) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """A server that serves an image, or redirects to another host, and records requests."""
    seen: list[tuple[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append((self.path, self.headers.get("Authorization", "")))
            if "away" in self.path:
                self.send_response(302)
                self.send_header("Location", "http://localhost:1/a.png")
                self.end_headers()
                return
            data = (files / "day 1" / "a b.png").read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *arguments: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", seen
    server.shutdown()


def test_images_are_loaded_from_the_given_host_only(
    label_studio: tuple[str, list[tuple[str, str]]], files: Path
) -> None:
    url, seen = label_studio
    source = ImageSource(url=url, token="secret")
    expected = (files / "day 1" / "a b.png").read_bytes()
    for reference in ("/data/upload/1/a.png", f"{url}/data/upload/1/a.png"):
        opened = source.open(reference)
        assert isinstance(opened, io.BytesIO) and opened.read() == expected
    assert seen == [("/data/upload/1/a.png", "Token secret")] * 2
    with pytest.raises(UserError, match=r"cannot be loaded .*redirected to localhost:1"):
        source.open("/data/away.png")
    for other in (
        "http://127.0.0.1:1/a.png",
        url.replace("http", "https") + "/a.png",
        "file:///etc/passwd",
        "//evil/a.png",
    ):
        with pytest.raises(UserError, match="is on "):
            source.open(other)


def test_token_is_accepted_as_password_of_basic_authentication(run: Path, files: Path) -> None:
    api = client(run, ImageSource(files), token="secret")
    assert api.get("/health").status_code == 401
    assert api.get("/health", auth=("any", "wrong")).status_code == 401
    assert api.get("/health", auth=("any", "secret")).status_code == 200
    assert api.get("/health", headers={"Authorization": "Basic !"}).status_code == 401


def test_other_hosts_are_refused_without_a_token(run: Path, files: Path) -> None:
    app = client(run, ImageSource(files)).app
    assert TestClient(app, base_url="http://evil.example").get("/health").status_code == 403


def test_options_are_checked(run: Path, tmp_path: Path) -> None:
    for options, message in (
        ({"label_studio_root": tmp_path / "none"}, "none: --label-studio-root: is not a directory"),
        ({"label_studio_url": "localhost:8080"}, "--label-studio-url: must be like http://localhost:8080"),
    ):
        with pytest.raises(UserError, match=message):
            serve([run], accelerator="cpu", label_studio=True, **options)
    with pytest.raises(UserError, match="--label-studio: serves exactly one run"):
        serve([run, run], label_studio=True)


def test_answers_are_json_without_infinities(run: Path, files: Path) -> None:
    text = client(run, ImageSource(files)).post("/predict", json=request(LOCAL)).text
    assert json.loads(text, parse_constant=lambda name: pytest.fail(name))
