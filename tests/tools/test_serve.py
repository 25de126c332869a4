"""The page and its JSON endpoint: what they answer, what they refuse, and that nothing of the server leaks."""

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
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import semiseg
from semiseg import cli
from semiseg.tools.serving import endpoints, server, uploads
from semiseg.tools.serving.render_answer import as_html, as_json
from semiseg.tools.serving.served_models import Networks, unlike
from semiseg.tools.serving.uploads import Refused, read_upload

SHAPES = "shapes:images=10,val=3,test=2,size=48"
OPTIONS = {"crop_size": 32, "batch_size": 2, "steps": 2, "workers": 0, "accelerator": "cpu", "weights": "none"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("secret-folder") / "run"
    semiseg.train(SHAPES, "dual-teacher", out, labeled="4", encoder="test_resnet", **OPTIONS)
    best = out / "checkpoints" / "best.pt"
    state = torch.load(best, weights_only=True)
    torch.manual_seed(0)
    for name, tensor in state["method"].items():
        if name.endswith("head.weight"):
            tensor.normal_()  # two steps teach it one class: now it has an opinion on every pixel
    torch.save(state, best)
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
    """A PNG that says how large it is, and has next to nothing of it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")


# What the networks say.


def test_labels_defaults_and_samples(run: Path, networks: Networks, tmp_path: Path) -> None:
    assert list(networks.predictors) == ["student", "teacher1", "teacher2", "teachers-average"]
    assert networks.defaults == ["student"]
    assert len(networks.samples) == 2 and all(name.startswith("test") for name in networks.samples)
    twin = shutil.copytree(run, tmp_path / "run")
    several = Networks([str(run), str(twin), str(semiseg.export(run, out=tmp_path / "given").path)], accelerator="cpu")
    assert several.defaults == ["run-1/student", "run-2/student", "given/student"]


def test_names_that_occur_twice_are_numbered() -> None:
    assert unlike(["a", "b", "a", "a"]) == ["a-1", "b", "a-2", "a-3"]


def test_the_answer_is_what_the_run_predicts(run: Path, networks: Networks, photo: bytes) -> None:
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


def test_json_holds_the_mask_as_indexed_png(networks: Networks, photo: bytes) -> None:
    image = read_upload(photo)
    answers = networks.segment(image)
    content = json.loads(json.dumps(as_json(answers)))
    assert (content["width"], content["height"]) == (99, 70)
    mask = Image.open(io.BytesIO(base64.b64decode(content["networks"]["student"]["mask"])))
    assert mask.mode == "P" and np.array_equal(np.array(mask), answers[0].mask.numpy())
    assert sum(content["networks"]["student"]["shares"].values()) == pytest.approx(1)


def test_html_escapes_names_that_others_chose(networks: Networks, photo: bytes) -> None:
    image = read_upload(photo)
    html = as_html(image, networks.segment(image), '"><script>x</script>')
    assert "<script>" not in html and "&lt;script&gt;" in html


def test_a_large_image_is_shown_small_and_downloaded_whole(networks: Networks) -> None:
    image = torch.zeros(3, 60, 1500, dtype=torch.uint8)
    html = as_html(image, networks.segment(image), "wide")
    tags = [part.split('"')[0] for part in html.split("base64,")[1:]]
    sizes = [Image.open(io.BytesIO(base64.b64decode(tag))).size for tag in tags]
    assert sizes[:-1] == [(1024, 41)] * (len(sizes) - 1) and sizes[-1] == (1500, 60)


# What is not taken.


@pytest.mark.parametrize("kind", uploads.KINDS)
def test_every_kind_that_is_named_is_read(kind: str) -> None:
    image = read_upload(encoded(Image.new("RGB", (20, 10), (200, 0, 0)), kind))
    assert image.shape == (3, 10, 20) and abs(int(image[0, 5, 5]) - 200) < 4


@pytest.mark.parametrize(
    ("data", "status", "message"),
    [
        (b"this is no picture", 415, "not an image that is taken here"),
        (b"", 415, "not an image that is taken here"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "send one of JPEG, PNG"),
        (encoded(Image.new("RGB", (8, 8)), "GIF"), 415, "send one of JPEG, PNG"),
        (header_of(30000, 20000), 413, "more than 13 million pixels"),
        (header_of(4000, 3251), 413, "more than 13 million pixels"),
        (header_of(40, 30), 415, "damaged"),
        (b"\0" * (uploads.MAX_BYTES + 1), 413, "more than 20 MB"),
    ],
    ids=["text", "empty", "svg", "gif", "huge-header", "large-header", "damaged", "many-bytes"],
)
def test_what_is_not_taken_is_told(data: bytes, status: int, message: str) -> None:
    with pytest.raises(Refused, match=message) as refusal:
        read_upload(data)
    assert refusal.value.status == status


def test_what_an_image_costs_counts_what_the_network_pads(networks: Networks) -> None:
    assert networks.pixels(1, 1_000_000) == 32_000_000
    assert networks.pixels(3024, 4032) <= uploads.MAX_PIXELS  # a phone's photo, whichever way it is held
    assert networks.pixels(4032, 3024) <= uploads.MAX_PIXELS
    line = encoded(Image.new("L", (1_000_000, 1)))
    assert len(line) < 2000
    with pytest.raises(Refused, match="more than 13 million as the network resizes and pads it") as refusal:
        read_upload(line, networks.pixels)
    assert refusal.value.status == 413


@pytest.mark.parametrize(("host", "inside"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("example.org", False)])  # fmt: skip  # noqa: E501
def test_what_counts_as_this_machine(host: str, inside: bool) -> None:
    assert server.is_loopback(host) == inside


def test_an_address_that_is_taken_is_told() -> None:
    with server.listen("127.0.0.1", 0) as taken, pytest.raises(semiseg.UserError, match="choose another --port"):
        server.listen("127.0.0.1", taken.getsockname()[1])


def test_without_the_extra_the_hint_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(semiseg.UserError, match=r"pip install 'semiseg\[serve\]'"):
        server.serve(["nowhere"])


# Over HTTP.


@contextmanager
def running(networks: Networks, token: str | None = None) -> Iterator[str]:
    pytest.importorskip("gradio", reason="the extra serve is not installed")
    import uvicorn

    with server.listen("127.0.0.1", 0) as bound:
        config = uvicorn.Config(server.make_app(networks, token), log_level="warning")
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


def ask(url: str, data: bytes | None = None, **headers: str) -> tuple[int, bytes, Any]:
    request = urllib.request.Request(url, data, {key.replace("_", "-"): value for key, value in headers.items()})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, response.read(), response.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read(), error.headers


def test_predict_answers_as_documented(url: str, networks: Networks, photo: bytes) -> None:
    status, body, _ = ask(f"{url}/predict?network=student&network=teacher1", photo)
    content = json.loads(body)
    assert status == 200 and list(content["networks"]) == ["student", "teacher1"]
    assert content == as_json(networks.segment(read_upload(photo), ["student", "teacher1"]))
    assert list(json.loads(ask(f"{url}/predict", photo)[1])["networks"]) == ["student"]


@pytest.mark.parametrize(
    ("query", "data", "status", "message"),
    [
        ("", b"this is no picture", 415, "not an image"),
        ("", header_of(30000, 20000), 413, "million pixels"),
        ("", encoded(Image.new("L", (1_000_000, 1))), 413, "less narrow"),
        ("?network=teacher9", header_of(40, 30), 415, "damaged"),
        ("?network=teacher9", encoded(Image.new("RGB", (8, 8))), 422, "did you mean teacher"),
    ],
)
def test_predict_says_what_is_wrong(url: str, query: str, data: bytes, status: int, message: str) -> None:
    answered, body, _ = ask(f"{url}/predict{query}", data)
    assert answered == status and message in json.loads(body)["error"]


def bad_uploads(photo: bytes) -> list[tuple[str, bytes, int]]:
    """Two hundred of them: path, body, status (404: refused unread, so that nothing need be sent)."""
    large = b"\xff\xd8" + bytes(6 * 2**20)
    bad = [
        *((data, 415) for data in (b"this is no picture", b"", header_of(40, 30), photo[: len(photo) // 2], large)),
        *((data, 413) for data in (header_of(30000, 20000), encoded(Image.new("L", (1_000_000, 1))))),
        *(
            (data, 415)
            for data in (encoded(Image.new("RGB", (8, 8)), "GIF"), b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0")
        ),
        (b"<script>alert(1)</script>", 415),
    ]
    made = []
    for index in range(200):
        (data, status), place = bad[index % len(bad)], index // len(bad) % 4
        path = ("/predict", "/show?name=x.png&network=student", "/predict?network=teacher1")[place % 3]
        made.append((path, data, status))
        if place == 3:
            said = b'{"data": ["x.png|data:image/png;base64,' + base64.b64encode(data)
            said += b'", ["student"]], "fn_index": 0, "session_hash": "%d"}' % index
            made[-1] = ("/gradio_api/queue/join", said, 404)
    return made


def resident() -> int:
    """Bytes of memory that this process has, the server among it."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_two_hundred_bad_uploads_at_once_leave_it_answering(url: str, photo: bytes) -> None:
    made = bad_uploads(photo)
    host, port = url.removeprefix("http://").split(":")
    all_are_open = threading.Barrier(len(made), timeout=60)

    def send(upload: tuple[str, bytes, int]) -> bytes:
        path, body, expected = upload
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode())
            all_are_open.wait()
            if expected != 404:
                connection.sendall(body)
            return b"".join(iter(lambda: connection.recv(65536), b""))

    assert ask(f"{url}/predict", photo)[0] == 200
    grown = []
    for _ in range(3):  # the first takes what threads and buffers need
        before = resident()
        with ThreadPoolExecutor(len(made)) as pool:
            answers = list(pool.map(send, made))
        grown.append((resident() - before) / 2**20)
    assert sum(len(body) for _, body, _ in made) > 120 * 2**20
    assert grown[0] < 400 and grown[1] + grown[2] < 60
    for (path, _, expected), answered in zip(made, answers, strict=True):
        head, _, text = answered.decode().partition("\r\n\r\n")
        assert int(head.split()[1]) == expected, path
        assert list(json.loads(text)) == ["error"]
        assert "/" not in text.replace("image/", "") and "Traceback" not in text
    assert ask(f"{url}/predict", photo)[0] == 200


def test_show_answers_the_page_and_says_why_it_does_not(url: str, networks: Networks, photo: bytes) -> None:
    status, body, _ = ask(f"{url}/show?name=rose.png&network=student", photo)
    image = read_upload(photo)
    assert status == 200 and body.decode() == as_html(image, networks.segment(image, ["student"]), "rose")
    status, body, _ = ask(f"{url}/show?sample={networks.samples[0]}&network=student", b"")
    assert status == 200 and f"{networks.samples[0]}_student.png" in body.decode()
    for query, data, expected, message in (
        ("name=huge.png&network=student", header_of(30000, 20000), 413, "more than 13 million pixels"),
        ("sample=../../etc/passwd&network=student", b"", 422, "this image or network is no longer there"),
        ("name=rose.png&network=gone", photo, 422, "this image or network is no longer there"),
        ("name=x.png&network=student", b"", 415, "not an image"),
    ):
        status, body, _ = ask(f"{url}/show?{query}", data)
        assert status == expected and message in json.loads(body)["error"]


def test_who_sends_too_slowly_or_goes_holds_nobody_up(
    url: str, photo: bytes, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(endpoints, "PATIENCE", 0.5)
    host, port = url.removeprefix("http://").split(":")
    head = f"POST /predict HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(photo)}\r\n\r\n".encode()
    slow, gone = ([socket.create_connection((host, int(port)), timeout=20) for _ in range(6)] for _ in range(2))
    for connection in (*slow, *gone):
        connection.sendall(head + photo[:9])
    for connection in gone:
        connection.close()
    assert ask(f"{url}/predict", photo)[0] == 200
    for connection in slow:
        answered = connection.recv(4096)
        assert answered.startswith(b"HTTP/1.1 408 ")
        connection.close()
    assert "Traceback" not in capfd.readouterr().err


def test_too_many_bytes_are_refused_before_they_are_read(url: str) -> None:
    from http.client import HTTPConnection

    for length, expected in ((str(uploads.MAX_BYTES + 1), 413), (None, 411)):
        connection = HTTPConnection(url.removeprefix("http://"), timeout=20)
        connection.putrequest("POST", "/predict")
        if length:
            connection.putheader("Content-Length", length)
        connection.endheaders()  # and not a byte of the body
        assert connection.getresponse().status == expected
        connection.close()


def test_the_page_loads_nothing_from_elsewhere_and_names_no_file_of_the_server(url: str, run: Path) -> None:
    for path in ("/", "/config", "/theme.css", "/gradio_api/info"):
        status, body, headers = ask(url + path)
        text = body.decode()
        assert status == 200, path
        assert "default-src 'self'" in headers["content-security-policy"]
        assert "secret-folder" not in text and str(Path.cwd()) not in text and str(Path.home()) + "/" not in text
        assert "fonts.googleapis.com/css" not in text


@pytest.mark.parametrize(
    "path", ["upload", "file=/etc/passwd", "proxy=http://x", "queue/join", "queue/data", "call/x", "heartbeat/x"]
)
def test_no_files_are_given_by_their_place_and_no_sessions_held(url: str, path: str) -> None:
    assert ask(f"{url}/gradio_api/{path}")[0] == 404
    assert ask(f"{url}/gradio_api/{path}", b"x")[0] == 404
    assert ask(f"{url}/{path}", b"x")[0] == 404


def test_another_name_for_this_machine_is_not_answered_to(url: str, photo: bytes) -> None:
    assert ask(f"{url}/predict", photo, Host="attacker.example:80")[0] == 403
    assert ask(f"{url}/", Host="localhost:7860")[0] == 200


def test_a_public_page_needs_its_token(networks: Networks, photo: bytes) -> None:
    with running(networks, token="right") as url:
        for path in ("/", "/config", "/predict", "/?token=wrong", "/predict?token=right"):
            assert ask(url + path)[0] == 401, path
        assert ask(f"{url}/predict", photo)[0] == 401
        assert ask(f"{url}/predict", photo, Authorization="Bearer wrong")[0] == 401
        assert ask(f"{url}/predict", photo, Authorization="Bearer right", Host="some.name")[0] == 200
        assert ask(f"{url}/", Cookie="semiseg_token=right")[0] == 200
        request = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        with request.open(f"{url}/?token=right") as response:
            assert response.status == 200 and response.url == f"{url}/"  # the cookie is set, the token out of sight


@pytest.mark.parametrize(("options", "address"), [([], "127.0.0.1"), (["--public"], "0.0.0.0")])
def test_only_this_machine_is_listened_to_unless_asked(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: list[str], address: str
) -> None:
    """The command's own socket: what it is bound to, and whether another address of this machine reaches it."""
    pytest.importorskip("gradio", reason="the extra serve is not installed")
    import uvicorn

    seen = []

    def look(self: uvicorn.Server, sockets: list[socket.socket]) -> None:
        host, port = sockets[0].getsockname()
        with socket.socket() as other:
            seen.append((host, other.connect_ex(("127.0.0.2", port)) == 0))

    monkeypatch.setattr(uvicorn.Server, "run", look)
    monkeypatch.setattr("sys.argv", ["semiseg", "serve", str(run), "--port", "0", "--accelerator", "cpu", *options])
    assert cli.main() == 130
    assert seen == [(address, bool(options))]
    assert ("?token=" in capsys.readouterr().out) == bool(options)


def test_the_command_prints_where_and_ends_when_interrupted(run: Path, photo: bytes) -> None:
    pytest.importorskip("gradio", reason="the extra serve is not installed")
    command = [sys.executable, "-m", "semiseg.cli", "serve", str(run), "--port", "0", "--public"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        printed = re.match(r"http://\S+:(\d+)/\?token=(\S{20,}) ", process.stdout.readline())
        assert printed is not None
        port, token = printed.groups()  # it listens by now: a request waits until the page is made
        assert ask(f"http://127.0.0.1:{port}/predict", photo, Authorization=f"Bearer {token}")[0] == 200
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 130 and errors == "semiseg: interrupted\n"
    finally:
        process.kill()
        process.communicate()


# In a browser.


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
    const drop = document.querySelector('#drop .drop');
    drop.dispatchEvent(new DragEvent('drop', {bubbles: true, cancelable: true, dataTransfer: data}));
}"""


def test_an_image_dropped_into_the_page_is_segmented(
    browser_page: Any, url: str, networks: Networks, photo: bytes, tmp_path: Path
) -> None:
    asked: list[str] = []
    browser_page.on("request", lambda request: asked.append(request.url))
    browser_page.goto(url)
    browser_page.wait_for_selector("#drop .drop")
    browser_page.evaluate(DROP, [list(photo), "rose.png"])
    browser_page.wait_for_selector(".answer")
    (answer,) = networks.segment(read_upload(photo))
    shares = {name: f"{share:.1%}" for name, share in answer.shares().items() if share}
    rows = browser_page.locator(".legend tr").all_inner_texts()
    assert {tuple(row.split()) for row in rows} == set(shares.items())

    with browser_page.expect_download() as download:
        browser_page.click("a.download")
    assert download.value.suggested_filename == "rose_student.png"
    mask = Image.open(download.value.path())
    assert mask.mode == "P" and np.array_equal(np.array(mask), answer.mask.numpy())

    browser_page.fill("#opacity input[type=number]", "80")
    browser_page.keyboard.press("Tab")
    browser_page.wait_for_function("getComputedStyle(document.querySelector('.overlay img + img')).opacity == 0.8")
    browser_page.get_by_label("teacher1", exact=True).check()
    browser_page.wait_for_selector('.answer[data-network="teacher1"]')
    assert browser_page.locator(".answer").count() == 2

    picture = Path(os.environ.get("SEMISEG_SCREENSHOTS") or tmp_path) / "serve.png"
    picture.parent.mkdir(parents=True, exist_ok=True)
    browser_page.screenshot(path=picture, full_page=True)
    assert all(address.startswith((url, "data:", "blob:")) for address in asked)

    browser_page.evaluate(DROP, [list(header_of(30000, 20000)), "huge.png"])
    browser_page.wait_for_selector(".refused")
    assert "million pixels" in browser_page.inner_text(".refused")


def test_a_sample_is_chosen_in_the_page(browser_page: Any, url: str, networks: Networks) -> None:
    browser_page.goto(url)
    browser_page.click("#sample input")
    browser_page.get_by_role("option", name=networks.samples[1]).click()
    browser_page.wait_for_selector(".answer")
    assert browser_page.get_attribute("a.download", "download") == f"{networks.samples[1]}_student.png"
