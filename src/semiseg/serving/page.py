"""The page, in Gradio: drop an image or choose a sample, see what each network makes of it."""

from __future__ import annotations

import base64
import binascii
import os
from html import escape
from pathlib import PurePath
from typing import Any

from semiseg.errors import UserError
from semiseg.serving.networks import Networks
from semiseg.serving.show import as_html
from semiseg.serving.uploads import Refused, read_upload

DROP = """<label class="drop">Drop an image here, or click to choose one
<input type="file" accept="image/jpeg,image/png,image/webp,image/bmp,image/tiff"></label>"""
# Listeners sit on the element itself, whose content Gradio makes anew when the value changes. The value is
# "name|data:...;base64,...": the file travels with the question and is never stored on the server.
DROP_SCRIPT = """
const give = (file) => {
  if (!file) return;
  const reader = new FileReader();
  reader.onload = () => { props.value = file.name + '|' + reader.result; trigger('input'); };
  reader.readAsDataURL(file);
};
element.addEventListener('change', (event) => give(event.target.files[0]));
element.addEventListener('dragover', (event) => event.preventDefault());
element.addEventListener('drop', (event) => { event.preventDefault(); give(event.dataTransfer.files[0]); });
"""
OPACITY_SCRIPT = "(percent) => { document.documentElement.style.setProperty('--mask-opacity', percent / 100); }"
STYLE = """
.drop { display: block; padding: 2em 1em; border: 2px dashed #888; border-radius: 8px; text-align: center }
.drop input { display: block; margin: 1em auto 0 }
.answers { display: flex; flex-wrap: wrap; gap: 16px }
.answer { flex: 1 1 280px; max-width: 720px }
.answer figure { margin: 0; position: relative } .answer img { width: 100%; display: block; image-rendering: auto }
.overlay img + img { position: absolute; inset: 0; height: 100%; opacity: var(--mask-opacity, 0.5) }
.pair { display: flex; gap: 8px; margin: 8px 0 } .pair figure { flex: 1 } .pair figcaption { font-size: 80% }
.legend td { padding: 2px 8px } .legend span { display: inline-block; width: 1em; height: 1em; border: 1px solid #888 }
.refused { color: #b00020; font-weight: bold }
"""


def require_gradio() -> Any:
    """Import Gradio with all that it would tell others switched off.

    Raises:
        UserError: the extra is not installed.
    """
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}
    try:
        import gradio
    except ImportError:
        raise UserError("semiseg serve needs an extra: pip install 'semiseg[serve]'") from None
    return gradio


def make_page(networks: Networks) -> Any:
    """Return the page, a ``gradio.Blocks``."""
    gr = require_gradio()
    with gr.Blocks(analytics_enabled=False, title="semiseg", fill_width=True) as page, gr.Row():
        with gr.Column(scale=1, min_width=280):
            drop = gr.HTML("", html_template=DROP, js_on_load=DROP_SCRIPT, elem_id="drop")
            sample = gr.Dropdown(
                list(networks.samples),
                value=None,
                label="or a sample",
                visible=bool(networks.samples),
                elem_id="sample",
            )
            chosen = gr.CheckboxGroup(
                list(networks.predictors), value=networks.defaults, label="networks", elem_id="networks"
            )
            opacity = gr.Slider(0, 100, 50, label="opacity of the mask, percent", elem_id="opacity")
        with gr.Column(scale=3):
            result = gr.HTML("<p>No image yet.</p>", elem_id="result")
        last = gr.State(("", ""))  # what is shown: a dropped file, or a sample's name

        def dropped(value: str, labels: list[str]) -> tuple[str, tuple[str, str], None]:
            return show(networks, value, "", labels), (value, ""), None

        def sampled(name: str | None, labels: list[str]) -> tuple[str, tuple[str, str]]:
            return show(networks, "", name or "", labels), ("", name or "")

        def again(shown: tuple[str, str], labels: list[str]) -> str:
            return show(networks, *shown, labels)

        private = {"api_visibility": "private"}  # POST /predict is the way for programs
        drop.input(dropped, [drop, chosen], [result, last, sample], **private)
        sample.input(sampled, [sample, chosen], [result, last], **private)
        chosen.input(again, [last, chosen], [result], **private)
        opacity.input(None, [opacity], None, js=OPACITY_SCRIPT, **private)
    return page


def show(networks: Networks, dropped: str, sample: str, labels: list[str]) -> str:
    """Return the HTML for a dropped file, ``name|data:image/...;base64,...``, or a sample's name; or why not."""
    if not dropped and not sample:
        return "<p>No image yet.</p>"
    if not labels:
        return "<p>Choose a network.</p>"
    try:
        if dropped:
            name, _, address = dropped.rpartition("|")
            image = read_upload(base64.b64decode(address.partition(",")[2], validate=True), networks.pixels)
        else:
            name, image = sample, networks.read_sample(sample)
        return as_html(image, networks.segment(image, labels), PurePath(name).stem or "image")
    except (Refused, binascii.Error) as refusal:
        return f'<p class="refused">{escape(str(refusal))}</p>'
    except UserError:  # its words may name a file of the server: they are for the terminal
        return '<p class="refused">This image or network is no longer there.</p>'
