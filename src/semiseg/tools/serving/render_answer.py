"""Answers as HTML and as JSON: pictures are inside, so that no file of the server is ever named."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import PIL.Image
from torch import Tensor

from semiseg.tools.serving.served_models import Answer
from semiseg.visualization.mask_pictures import colorize, indexed_picture, to_picture

SHOWN_SIDE = 1024  # of pictures on the page; downloads and JSON have the image's size
Picture = PIL.Image.Image


def as_json(answers: Sequence[Answer]) -> dict[str, Any]:
    """Return size, and by network: ``mask`` (indexed PNG, base64), ``shares`` in [0, 1], ``mean_confidence``."""
    height, width = answers[0].mask.shape
    networks = {
        answer.label: {
            "mask": base64.b64encode(png(indexed_picture(answer.mask, answer.palette))).decode(),
            "shares": answer.shares(),
            "mean_confidence": float(answer.confidence.mean()),
        }
        for answer in answers
    }
    return {"width": width, "height": height, "networks": networks}


def as_html(image: Tensor, answers: Sequence[Answer], name: str) -> str:
    """Return a card for each answer: overlay, mask, confidence, class shares, download.

    Args:
        image: uint8 ``(3, H, W)``.
        answers: at least one.
        name: what to call the downloaded masks, without ``.png``.
    """
    shown = picture_tag(smaller(to_picture(image), PIL.Image.Resampling.LANCZOS), "image", "JPEG")
    return f'<div class="answers">{"".join(card(shown, answer, name) for answer in answers)}</div>'


def card(photo: str, answer: Answer, name: str) -> str:
    """Return one network's answer; ``photo`` is the image's tag."""
    nearest = PIL.Image.Resampling.NEAREST
    mask = picture_tag(smaller(colorize(answer.mask, answer.palette), nearest), "mask")
    gray = PIL.Image.fromarray((answer.confidence.numpy() * 255).round().astype(np.uint8))
    certain = picture_tag(smaller(gray, PIL.Image.Resampling.LANCZOS), "confidence")
    file = png(indexed_picture(answer.mask, answer.palette))
    label, mean = escape(answer.label), float(answer.confidence.mean())
    saved = escape(f"{name}_{answer.label.replace('/', '_')}.png")
    return f"""<section class="answer" data-network="{label}">
<h3>{label}</h3>
<figure class="overlay">{photo}{mask}</figure>
<div class="pair"><figure>{mask}<figcaption>mask</figcaption></figure>
<figure>{certain}<figcaption>confidence, white: certain; {mean:.0%} on average</figcaption></figure></div>
{legend(answer)}
<a class="download" download="{saved}" href="{uri(file, "png")}">Download the mask (indexed PNG)</a>
</section>"""


def legend(answer: Answer) -> str:
    """Return the classes that the image has, largest share first."""
    colors = dict(zip(answer.classes, answer.palette, strict=True))
    shares = sorted(((name, share) for name, share in answer.shares().items() if share), key=lambda pair: -pair[1])
    rows = "".join(
        f'<tr><td><span style="background:rgb{colors[name]}"></span></td>'
        f"<td>{escape(name)}</td><td>{share:.1%}</td></tr>"
        for name, share in shares
    )
    return f'<table class="legend">{rows}</table>'


def smaller(picture: Picture, resampling: PIL.Image.Resampling) -> Picture:
    """Return the picture with sides of at most ``SHOWN_SIDE``."""
    factor = min(1.0, SHOWN_SIDE / max(picture.size))
    width, height = (max(1, round(side * factor)) for side in picture.size)
    return picture if factor == 1 else picture.resize((width, height), resampling)


def picture_tag(picture: Picture, what: str, format: str = "PNG") -> str:
    """Return an ``img`` that carries the picture."""
    return f'<img alt="{what}" src="{uri(encoded(picture, format), format.lower())}">'


def uri(data: bytes, kind: str) -> str:
    """Return an address that is the data."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def png(picture: Picture) -> bytes:
    """Return the picture as PNG."""
    return encoded(picture, "PNG")


def encoded(picture: Picture, format: str) -> bytes:
    """Return the picture as a file's bytes."""
    buffer = io.BytesIO()
    picture.save(buffer, format=format)
    return buffer.getvalue()
