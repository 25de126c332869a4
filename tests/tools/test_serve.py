"""The web page and the JSON endpoint: answers, rejected requests, and access control."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import signal
import socket
import struct
import sys
import threading
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import semiseg
from commands import Command
from semiseg import cli
from semiseg.tools.serving import uploads
from semiseg.tools.serving.served_models import Networks, number_duplicates
from semiseg.tools.serving.uploads import Refused, read_upload
from semiseg.workflows.serve import listen, serve
from toy import predict_several_classes

app = pytest.importorskip("semiseg.tools.serving.app", reason="the extra serve is not installed", exc_type=ImportError)
guard = pytest.importorskip("semiseg.tools.serving.guard", exc_type=ImportError)

pytestmark = pytest.mark.usefixtures("quick_module")

SHAPES = "shapes:images=10,val=3,test=2,size=48"
OPTIONS = {"crop_size": 32, "batch_size": 2, "steps": 2, "workers": 0, "accelerator": "cpu", "weights": "none"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("secret-folder") / "run"
    semiseg.train(SHAPES, "dual-teacher", out, labeled="4", encoder="test_resnet", **OPTIONS)
    predict_several_classes(out / "checkpoints" / "best.pt")
    return out


@pytest.fixture(scope="module")
def networks(run: Path) -> Networks:
    return Networks([str(run)], accelerator="cpu")


@pytest.fixture(scope="module")
def photo() -> bytes:
    values = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return encoded(Image.fromarray(values).resize((99, 70), Image.Resampling.BICUBIC))


def encoded(image: Image.Image, format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=format)
    return buffer.getvalue()


def header_of(width: int, height: int) -> bytes:
    """A PNG with the header of a large image and almost no data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")


# Predictions


@pytest.mark.slow
def test_labels_defaults_and_samples(run: Path, networks: Networks, tmp_path: Path) -> None:
    assert list(networks.predictors) == ["student", "teacher1", "teacher2", "teachers-average"]
    assert networks.defaults == ["student"]
    assert len(networks.samples) == 2 and all(name.startswith("test") for name in networks.samples)
    copy = shutil.copytree(run, tmp_path / "run")
    several = Networks([str(run), str(copy), str(semiseg.export(run, out=tmp_path / "given").path)], accelerator="cpu")
    assert several.defaults == ["run-1/student", "run-2/student", "given/student"]


def test_duplicate_names_are_numbered() -> None:
    assert number_duplicates(["a", "b", "a", "a"]) == ["a-1", "b", "a-2", "a-3"]


@pytest.mark.slow
def test_segment_gives_the_predictions_of_the_run(run: Path, networks: Networks, photo: bytes) -> None:
    image = read_upload(photo)
    assert len(networks.segment(image)[0].mask.unique()) > 2
    for label in networks.predictors:
        (answer,) = networks.segment(image, [label])
        expected = semiseg.load(run, label, accelerator="cpu")(image)
        assert torch.equal(answer.mask, expected.mask) and torch.equal(answer.confidence, expected.confidence)
        for value, name in enumerate(answer.classes):
            assert answer.shares()[name] == pytest.approx(float((expected.mask == value).float().mean()))
    with pytest.raises(semiseg.UserError, match="unknown network 'teacher9': did you mean teacher"):
        networks.segment(image, ["teacher9"])


@pytest.mark.slow
def test_json_contains_an_indexed_msend(networks: Networks, photo: bytes) -> None:
    answer = networks.segment(read_upload(photo))[0]
    content = json.loads(json.dumps(app.segment(networks, photo, [])))
    assert (content["width"], content["height"]) == (99, 70)
    assert content["networks"]["student"].keys() == {"mask", "shares", "mean_confidence"}
    mask = Image.open(io.BytesIO(base64.b64decode(content["networks"]["student"]["mask"])))
    assert mask.mode == "P" and np.array_equal(np.array(mask), answer.mask.numpy())
    assert sum(content["networks"]["student"]["shares"].values()) == pytest.approx(1)


@pytest.mark.slow
def test_details_contain_a_small_confidence_picture_and_colors(networks: Networks) -> None:
    wide = encoded(Image.new("RGB", (1500, 60)))
    content = app.segment(networks, wide, [], details=True)["networks"]["student"]
    assert Image.open(io.BytesIO(base64.b64decode(content["confidence"]))).size == (1024, 41)
    assert Image.open(io.BytesIO(base64.b64decode(content["mask"]))).size == (1500, 60)
    assert content["colors"].keys() == content["shares"].keys()


# Uploads


def test_every_supported_format_is_read() -> None:
    for kind in uploads.KINDS:
        image = read_upload(encoded(Image.new("RGB", (20, 10), (200, 0, 0)), kind))
        assert image.shape == (3, 10, 20) and abs(int(image[0, 5, 5]) - 200) < 4


@pytest.mark.parametrize(
    ("data", "status", "message"),
    [
        (b"not a picture", 415, "not a supported image"),
        (b"", 415, "not a supported image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "send one of JPEG, PNG"),
        (header_of(30000, 20000), 413, "more than 13 million pixels"),
        (header_of(4000, 3251), 413, "more than 13 million pixels"),
        (header_of(40, 30), 415, "damaged"),
        (b"\0" * (uploads.MAX_BYTES + 1), 413, "more than 20 MB"),
    ],
    ids=["text", "empty", "svg", "huge-header", "large-header", "damaged", "many-bytes"],
)
def test_read_upload_rejects(data: bytes, status: int, message: str) -> None:
    with pytest.raises(Refused, match=message) as refusal:
        read_upload(data)
    assert refusal.value.status == status


@pytest.mark.slow
def test_peak_pixels_include_the_padding_of_the_network(networks: Networks) -> None:
    assert networks.peak_pixels(1, 1_000_000) == 32_000_000
    assert networks.peak_pixels(3024, 4032) <= uploads.MAX_PIXELS  # a photo of a phone, in both orientations
    assert networks.peak_pixels(4032, 3024) <= uploads.MAX_PIXELS
    line = encoded(Image.new("L", (1_000_000, 1)))
    assert len(line) < 2000
    with pytest.raises(Refused, match="more than 13 million as the network resizes and pads it") as refusal:
        read_upload(line, networks.peak_pixels)
    assert refusal.value.status == 413


def test_is_loopback() -> None:
    for host in ("127.0.0.1", "::1", "localhost"):
        assert guard.is_loopback(host), host
    for host in ("0.0.0.0", "example.org", ""):
        assert not guard.is_loopback(host), host


def test_an_address_in_use_is_reported() -> None:
    with listen("127.0.0.1", 0) as taken, pytest.raises(semiseg.UserError, match="Pass another --port"):
        listen("127.0.0.1", taken.getsockname()[1])


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_out_of_range_is_reported_before_a_model_is_loaded(port: int) -> None:
    with pytest.raises(semiseg.UserError, match=rf"^--port: {port} is out of range. Choose a value in \[0, 65535\]"):
        serve(["nowhere"], port=port)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fastapi", None)
    with pytest.raises(semiseg.UserError, match=r"pip install 'semiseg\[serve\]'"):
        serve(["nowhere"])


# HTTP


@contextmanager
def running(networks: Networks, token: str | None = None) -> Iterator[str]:
    import uvicorn

    with listen("127.0.0.1", 0) as bound:
        config = uvicorn.Config(app.make_app(networks, token), log_level="warning")
        running = uvicorn.Server(config)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [bound]}, daemon=True)
        thread.start()
        while not running.started and thread.is_alive():
            time.sleep(0.05)
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
        running.should_exit = True
        thread.join(20)


@pytest.fixture(scope="module")
def url(networks: Networks) -> Iterator[str]:
    with running(networks) as address:
        yield address


def send(url: str, data: bytes | None = None, **headers: str) -> tuple[int, bytes, Any]:
    request = urllib.request.Request(url, data, {key.replace("_", "-"): value for key, value in headers.items()})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, response.read(), response.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read(), error.headers


@pytest.mark.slow
def test_predict_answers_with_json(url: str, networks: Networks, photo: bytes) -> None:
    status, body, _ = send(f"{url}/predict?network=student&network=teacher1", photo)
    content = json.loads(body)
    assert status == 200 and list(content["networks"]) == ["student", "teacher1"]
    assert content == app.segment(networks, photo, ["student", "teacher1"])
    assert list(json.loads(send(f"{url}/predict", photo)[1])["networks"]) == ["student"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("query", "data", "status", "message"),
    [
        ("", b"not a picture", 415, "not a supported image"),
        ("", header_of(30000, 20000), 413, "million pixels"),
        ("", encoded(Image.new("L", (1_000_000, 1))), 413, "less narrow"),
        ("", header_of(40, 30), 415, "damaged"),
        ("?network=teacher9", header_of(40, 30), 422, "did you mean teacher"),
        ("?network=teacher9", encoded(Image.new("RGB", (8, 8))), 422, "did you mean teacher"),
    ],
)
def test_predict_reports_errors(url: str, query: str, data: bytes, status: int, message: str) -> None:
    answered, body, _ = send(f"{url}/predict{query}", data)
    assert answered == status and message in json.loads(body)["error"]


def bad_uploads(photo: bytes) -> list[tuple[str, bytes, int]]:
    """Return 200 invalid uploads: path, body and expected status."""
    large = b"\xff\xd8" + bytes(6 * 2**20)
    bad = [
        *((data, 415) for data in (b"not a picture", b"", header_of(40, 30), photo[: len(photo) // 2], large)),
        *((data, 413) for data in (header_of(30000, 20000), encoded(Image.new("L", (1_000_000, 1))))),
        (encoded(Image.new("RGB", (8, 8)), "PPM"), 415),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0", 415),
        (b"<script>alert(1)</script>", 415),
    ]
    paths = ("/predict", "/predict?details=1&network=student", "/predict?network=teacher1", "/upload")
    made = []
    for index in range(200):
        data, status = bad[index % len(bad)]
        path = paths[index // len(bad) % len(paths)]
        made.append((path, data, 404 if path == "/upload" else status))
    return made


def resident() -> int:
    """Return the resident memory of this process in bytes; the server runs in it."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
def test_server_survives_200_bad_uploads_at_once(url: str, photo: bytes) -> None:
    made = bad_uploads(photo)
    host, port = url.removeprefix("http://").split(":")
    all_are_open = threading.Barrier(len(made), timeout=60)

    def upload(request: tuple[str, bytes, int]) -> bytes:
        path, body, expected = request
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode())
            all_are_open.wait()
            if expected != 404:
                connection.sendall(body)
            return b"".join(iter(lambda: connection.recv(65536), b""))

    assert send(f"{url}/predict", photo)[0] == 200
    grown = []
    for _ in range(3):  # the first round allocates threads and buffers
        before = resident()
        with ThreadPoolExecutor(len(made)) as pool:
            answers = list(pool.map(upload, made))
        grown.append((resident() - before) / 2**20)
    assert sum(len(body) for _, body, _ in made) > 90 * 2**20
    assert grown[0] < 400 and grown[1] + grown[2] < 60
    for (path, _, expected), answered in zip(made, answers, strict=True):
        head, _, text = answered.decode().partition("\r\n\r\n")
        assert int(head.split()[1]) == expected, path
        assert list(json.loads(text)) == ["detail" if expected == 404 else "error"]
        assert "/" not in text.replace("image/", "") and "Traceback" not in text
    assert send(f"{url}/predict", photo)[0] == 200


@pytest.mark.slow
def test_samples(url: str, networks: Networks) -> None:
    content = json.loads(send(f"{url}/networks")[1])
    assert content["networks"] == list(networks.predictors) and content["defaults"] == ["student"]
    assert content["samples"] == list(networks.samples)
    status, body, _ = send(f"{url}/samples/{networks.samples[0]}")
    image = torch.from_numpy(np.array(Image.open(io.BytesIO(body)))).permute(2, 0, 1)
    assert status == 200 and torch.equal(image, networks.read_sample(networks.samples[0]))
    for name in ("gone", "..%2F..%2Fetc%2Fpasswd"):
        status, body, _ = send(f"{url}/samples/{name}")
        assert status == 422 and json.loads(body) == {"error": "this sample no longer exists"}


@pytest.mark.slow
def test_slow_and_disconnected_clients_do_not_block_others(
    url: str, photo: bytes, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(app, "UPLOAD_TIMEOUT", 0.5)
    host, port = url.removeprefix("http://").split(":")
    head = f"POST /predict HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(photo)}\r\n\r\n".encode()
    slow, gone = ([socket.create_connection((host, int(port)), timeout=20) for _ in range(6)] for _ in range(2))
    for connection in (*slow, *gone):
        connection.sendall(head + photo[:9])
    for connection in gone:
        connection.close()
    assert send(f"{url}/predict", photo)[0] == 200
    for connection in slow:
        answered = connection.recv(4096)
        assert answered.startswith(b"HTTP/1.1 408 ")
        connection.close()
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.slow
def test_too_many_bytes_are_rejected_before_they_are_read(url: str) -> None:
    from http.client import HTTPConnection

    for length, expected in ((str(uploads.MAX_BYTES + 1), 413), (None, 411)):
        connection = HTTPConnection(url.removeprefix("http://"), timeout=20)
        connection.putrequest("POST", "/predict")
        if length:
            connection.putheader("Content-Length", length)
        connection.endheaders()  # send no body
        assert connection.getresponse().status == expected
        connection.close()


@pytest.mark.slow
def test_answers_have_security_headers_and_name_no_files(url: str, run: Path) -> None:
    for path in ("/", "/networks", "/samples/gone", "/docs", "/openapi.json", "/file=/etc/passwd"):
        status, body, headers = send(url + path)
        text = body.decode()
        assert status == {"/": 200, "/networks": 200, "/samples/gone": 422}.get(path, 404), path
        assert "default-src 'none'" in headers["content-security-policy"]
        assert (headers["x-content-type-options"], headers["x-frame-options"]) == ("nosniff", "DENY")
        assert "secret-folder" not in text and str(Path.cwd()) not in text and str(Path.home()) + "/" not in text
        assert "http://" not in text and "https://" not in text


@pytest.mark.slow
def test_requests_from_other_hosts_and_sites_are_rejected(url: str, photo: bytes) -> None:
    assert send(f"{url}/predict", photo, Host="attacker.example:80")[0] == 403
    assert send(f"{url}/", Host="localhost:7860")[0] == 200
    assert send(f"{url}/predict", photo, Sec_Fetch_Site="cross-site")[0] == 403
    assert send(f"{url}/predict", photo, Sec_Fetch_Site="same-origin")[0] == 200


@pytest.mark.slow
def test_a_token_is_required(networks: Networks, photo: bytes) -> None:
    with running(networks, token="right") as url:
        for path in ("/", "/networks", "/predict", "/?token=wrong", "/predict?token=right"):
            assert send(url + path)[0] == 401, path
        assert send(f"{url}/predict", photo)[0] == 401
        assert send(f"{url}/predict", photo, Authorization="Bearer wrong")[0] == 401
        assert send(f"{url}/predict", photo, Authorization="Bearer right", Host="some.name")[0] == 200
        assert send(f"{url}/", Cookie="semiseg_token=right")[0] == 200
        request = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        with request.open(f"{url}/?token=right") as response:
            assert response.status == 200 and response.url == f"{url}/"  # without the token, by cookie


@pytest.mark.slow
@pytest.mark.parametrize(("options", "address"), [([], "127.0.0.1"), (["--public"], "0.0.0.0")])
def test_serve_listens_on_loopback_unless_public(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: list[str], address: str
) -> None:
    """Check the address of the socket, and whether another address of this machine reaches it."""
    import uvicorn

    seen = []

    def inspect(self: uvicorn.Server, sockets: list[socket.socket]) -> None:
        host, port = sockets[0].getsockname()
        with socket.socket() as other:
            seen.append((host, other.connect_ex(("127.0.0.2", port)) == 0))

    monkeypatch.setattr(uvicorn.Server, "run", inspect)
    monkeypatch.setattr("sys.argv", ["semiseg", "serve", str(run), "--port", "0", "--accelerator", "cpu", *options])
    assert cli.main() == 130
    assert seen == [(address, bool(options))]
    assert ("?token=" in capsys.readouterr().out) == bool(options)


@pytest.mark.slow
def test_the_command_prints_its_address_and_stops_when_interrupted(run: Path, photo: bytes, tmp_path: Path) -> None:
    output, errors = tmp_path / "stdout.txt", tmp_path / "stderr.txt"
    process = Command(["serve", str(run), "--port", "0", "--public"], errors, stdout=output)
    try:
        wait_until(lambda: process.poll() is not None or "\n" in output.read_text())
        printed = re.match(r"http://\S+:(\d+)/\?token=(\S{20,}) ", output.read_text())
        assert printed is not None, process.output()
        port, token = printed.groups()  # it already listens: requests wait until the application is ready
        assert send(f"http://127.0.0.1:{port}/predict", photo, Authorization=f"Bearer {token}")[0] == 200
        os.kill(process.pid, signal.SIGINT)
        assert process.finish(60) == (130, "semiseg: interrupted\n")
    finally:
        process.process.kill()


def wait_until(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# Browser


@pytest.fixture(scope="module")
def browser_page() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(names)} is installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser.new_page(viewport={"width": 1200, "height": 1000}, accept_downloads=True)
        browser.close()


DROP = """([bytes, name]) => {
    const data = new DataTransfer();
    data.items.add(new File([new Uint8Array(bytes)], name, {type: 'image/png'}));
    const drop = document.querySelector('#drop');
    drop.dispatchEvent(new DragEvent('drop', {bubbles: true, cancelable: true, dataTransfer: data}));
}"""


@pytest.mark.slow
def test_an_image_dropped_on_the_page_is_segmented(
    browser_page: Any, url: str, networks: Networks, photo: bytes, tmp_path: Path
) -> None:
    requested: list[str] = []
    problems: list[str] = []
    browser_page.on("console", lambda message: problems.append(message.text))
    browser_page.on("pageerror", lambda error: problems.append(str(error)))
    browser_page.on("request", lambda request: requested.append(request.url))
    browser_page.goto(url)
    browser_page.wait_for_selector("#networks input")
    browser_page.evaluate(DROP, [list(photo), "rose.png"])
    browser_page.wait_for_selector(".answer")
    (answer,) = networks.segment(read_upload(photo))
    shares = {name: f"{share:.1%}" for name, share in answer.shares().items() if share}
    rows = browser_page.locator(".legend tr").all_inner_texts()
    assert {tuple(row.split()) for row in rows} == set(shares.items())
    assert browser_page.locator(".overlay img").first.evaluate("(image) => image.naturalWidth") == 99
    assert browser_page.locator(".swatch").first.evaluate("(one) => one.style.background").startswith("rgb(")

    with browser_page.expect_download() as download:
        browser_page.click("a.download")
    assert download.value.suggested_filename == "rose_student.png"
    mask = Image.open(download.value.path())
    assert mask.mode == "P" and np.array_equal(np.array(mask), answer.mask.numpy())

    browser_page.fill("#opacity", "80")
    browser_page.wait_for_function("getComputedStyle(document.querySelector('.overlay img + img')).opacity == 0.8")
    browser_page.get_by_label("teacher1", exact=True).check()
    browser_page.wait_for_selector('.answer[data-network="teacher1"]')
    assert browser_page.locator(".answer").count() == 2

    screenshot = Path(os.environ.get("SEMISEG_SCREENSHOTS") or tmp_path) / "serve.png"
    screenshot.parent.mkdir(parents=True, exist_ok=True)
    browser_page.screenshot(path=screenshot, full_page=True)
    browser_page.set_viewport_size({"width": 390, "height": 800})  # a phone: nothing is wider than the screen
    assert browser_page.evaluate("document.documentElement.scrollWidth") <= 390
    browser_page.screenshot(path=screenshot.with_name("serve-phone.png"), full_page=True)
    browser_page.set_viewport_size({"width": 1200, "height": 1000})
    assert all(address.startswith((url, "data:", "blob:")) for address in requested)
    assert problems == []  # no script errors, no violation of the content security policy

    browser_page.evaluate(DROP, [list(header_of(30000, 20000)), "huge.png"])
    browser_page.wait_for_selector(".refused")
    assert "million pixels" in browser_page.inner_text(".refused")


@pytest.mark.slow
def test_a_sample_can_be_chosen_on_the_page(browser_page: Any, url: str, networks: Networks) -> None:
    browser_page.goto(url)
    browser_page.wait_for_selector("#networks input")
    browser_page.select_option("#sample", networks.samples[1])
    browser_page.wait_for_selector(".answer")
    assert browser_page.get_attribute("a.download", "download") == f"{networks.samples[1]}_student.png"
