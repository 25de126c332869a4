"""The page, in Gradio: drop an image or choose a sample, see what each network makes of it."""

from __future__ import annotations

import os
from typing import Any

from semiseg.errors import UserError
from semiseg.tools.serving.served_models import Networks
from semiseg.tools.serving.uploads import MAX_BYTES

DROP = """<label class="drop">Drop an image here, or click to choose one
<input type="file" accept="image/jpeg,image/png,image/webp,image/bmp,image/tiff"></label>"""
# Listeners sit on the element itself, whose content Gradio makes anew when the value changes. The file stays in the
# browser and travels with each question: the server keeps nothing of anybody's. Gradio's own way would keep what is
# asked and answered, for ten thousand sessions, whether it is taken or not.
DROP_SCRIPT = """
const give = (file) => {
  if (!file) return;
  window.semisegFile = file;
  trigger('input');
};
element.addEventListener('change', (event) => give(event.target.files[0]));
element.addEventListener('dragover', (event) => event.preventDefault());
element.addEventListener('drop', (event) => { event.preventDefault(); give(event.dataTransfer.files[0]); });
"""
# One question after the other, so that the answer to the last one stays.
ASK_SCRIPT = f"""
const refused = (why) => {{
  const line = document.createElement('p');
  line.className = 'refused';
  line.textContent = why;
  return line.outerHTML;
}};
const question = async (sample, labels) => {{
  const file = sample ? null : window.semisegFile;
  if (!sample && !file) return '<p>No image yet.</p>';
  if (!labels.length) return '<p>Choose a network.</p>';
  if (file && file.size > {MAX_BYTES}) return refused('the file has more than {MAX_BYTES // 2**20} MB');
  const what = sample ? ['sample', sample] : ['name', file.name];
  const query = new URLSearchParams([what, ...labels.map((label) => ['network', label])]);
  const result = document.querySelector('#result');
  result.classList.add('waiting');
  try {{
    const response = await fetch('show?' + query, {{method: 'POST', body: file}});
    return response.ok ? await response.text() : refused((await response.json()).error);
  }} catch {{
    return refused('the server does not answer');
  }} finally {{
    result.classList.remove('waiting');
  }}
}};
const ask = (sample, labels) =>
  window.semisegAnswer = (window.semisegAnswer ?? Promise.resolve()).then(() => question(sample, labels));
"""
DROPPED = f"async (labels) => {{ {ASK_SCRIPT} return [await ask(null, labels), null]; }}"
SAMPLED = f"async (sample, labels) => {{ {ASK_SCRIPT} window.semisegFile = null; return await ask(sample, labels); }}"
AGAIN = f"async (sample, labels) => {{ {ASK_SCRIPT} return await ask(sample, labels); }}"
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
.refused { color: #b00020; font-weight: bold } #result.waiting { opacity: 0.4 }
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
        here: dict[str, Any] = {"fn": None, "api_visibility": "private"}  # in the browser: POST /show answers
        drop.input(inputs=[chosen], outputs=[result, sample], js=DROPPED, **here)
        sample.input(inputs=[sample, chosen], outputs=[result], js=SAMPLED, **here)
        chosen.input(inputs=[sample, chosen], outputs=[result], js=AGAIN, **here)
        opacity.input(inputs=[opacity], outputs=None, js=OPACITY_SCRIPT, **here)
    return page
