"""The labeling interface of a Label Studio project: its control, its image, and the labels that match classes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

KINDS = {"BrushLabels": "brushlabels", "PolygonLabels": "polygonlabels"}


class ConfigError(ValueError):
    """The labeling interface cannot show predictions of masks. The message is one line, shown in Label Studio."""


@dataclass(frozen=True)
class Control:
    """A control for brush strokes or polygons.

    Attributes:
        kind: ``brushlabels`` or ``polygonlabels``.
        from_name: The name of the control.
        to_name: The name of the image.
        key: The key of the image in the data of a task.
        labels: The label of each class that has one.
    """

    kind: str
    from_name: str
    to_name: str
    key: str
    labels: dict[int, str]


def find_control(config: str, classes: Sequence[str]) -> Control:
    """Return the first control for brush strokes, else for polygons, that belongs to an image.

    Labels and classes match if they are equal without case, spaces, hyphens and underscores.

    Args:
        config: The XML of the labeling interface.
        classes: The names of the classes.

    Raises:
        ConfigError: There is no such control, or none of its labels is a class.
    """
    if re.search(r"<!(DOCTYPE|ENTITY)", config, re.IGNORECASE):
        raise ConfigError("the labeling interface declares a document type, which is not supported")
    try:
        root = ElementTree.fromstring(config.strip())
    except ElementTree.ParseError as error:
        raise ConfigError(f"the labeling interface is not valid XML ({error})") from None
    images = {tag.get("name"): tag.get("value", "") for tag in root.iter("Image")}
    for name, kind in KINDS.items():
        for tag in root.iter(name):
            if (image := tag.get("toName")) in images:
                labels = match_labels([label.get("value", "") for label in tag.iter("Label")], classes)
                return Control(kind, tag.get("name", ""), str(image), images[image].lstrip("$"), labels)
    raise ConfigError("the labeling interface has neither BrushLabels nor PolygonLabels for an Image")


def match_labels(labels: Sequence[str], classes: Sequence[str]) -> dict[int, str]:
    """Return the label of each class that has one.

    Raises:
        ConfigError: None of the labels is a class.
    """
    plain = {simplified(label): label for label in reversed(labels)}
    found = {index: plain[simplified(name)] for index, name in enumerate(classes) if simplified(name) in plain}
    if not found:
        shown = f"labels: {', '.join(labels) or 'none'}; classes: {', '.join(classes)}"
        raise ConfigError(f"none of the labels is a class of the model ({shown})")
    return found


def simplified(name: str) -> str:
    """Return a name without case, spaces, hyphens and underscores."""
    return re.sub(r"[\s_-]+", "", name).casefold()
