"""Collect the lines of a plan, each with values and a reason; given options win over them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from semiseg.config import TrainConfig, from_mapping
from semiseg.methods import METHODS
from semiseg.tools.planning.device_facts import Device
from semiseg.tools.planning.fingerprint import Fingerprint
from semiseg.tools.planning.trial_steps import Speed
from semiseg.training.find_method import find_method

LENGTHS = ("steps", "epochs")


@dataclass(frozen=True)
class Line:
    """One choice of the plan.

    Attributes:
        values: The planned options.
        reason: Why.
    """

    values: Mapping[str, Any]
    reason: str


@dataclass(frozen=True)
class Plan:
    """The settings of a run, each with a reason.

    Attributes:
        data: The fingerprint of the data.
        device: The device.
        tier: The name of the row of ``TIERS``.
        time_s: The time budget in seconds; None if the number of steps was given.
        speed: The timed steps; None without timing.
        lines: The choices.
        given: The given options that the plan would otherwise have chosen.
        notes: What else the user should know.
    """

    data: Fingerprint
    device: Device
    tier: str
    time_s: float | None
    speed: Speed | None
    lines: tuple[Line, ...]
    given: Mapping[str, Any]
    notes: tuple[str, ...]

    @property
    def values(self) -> dict[str, Any]:
        """The planned options of all lines."""
        return {name: value for line in self.lines for name, value in line.values.items()}

    def to_json(self) -> dict[str, Any]:
        """Return the content of plan.json."""
        content = asdict(self)
        return content | {"device": content["device"] | {"text": self.device.describe()}}


class Planner:
    """Collects the lines of a plan; given options win over every line.

    Args:
        given: The given options, with ``data``.
        data: The fingerprint of the data.
        device: The device.
    """

    def __init__(self, given: Mapping[str, Any], data: Fingerprint, device: Device) -> None:
        self.given, self.data, self.device = dict(given), data, device
        self.lines: list[Line] = []
        self.notes: list[str] = []
        self.overridden: dict[str, Any] = {}
        self.method = str(given.get("method", TrainConfig.method))
        self._choose_method()
        kinds = (TrainConfig, find_method(self.method).Options)
        self.known = {field.name for kind in kinds for field in fields(kind)}

    @property
    def uses_unlabeled(self) -> bool:
        """True if the method learns from unlabeled images."""
        return find_method(self.method).uses_unlabeled

    def _choose_method(self) -> None:
        supervised = {f.name for kind in (TrainConfig, METHODS["supervised"].Options) for f in fields(kind)}
        if "method" in self.given:
            self.overridden["method"] = self.method
            return
        if self.data.unlabeled or not self.given.keys() <= supervised:
            self.lines.append(Line({"method": self.method}, "the default; learns from the unlabeled images"))
            return
        self.method = "supervised"
        reason = "there are no unlabeled images, so there is nothing else to learn from"
        self.lines.append(Line({"method": "supervised"}, reason))

    def add(self, values: Mapping[str, Any], reason: str) -> None:
        """Add a line with those values that the method knows and that are not given."""
        known = {name: value for name, value in values.items() if name in self.known}
        self.overridden |= {name: self.given[name] for name in known if name in self.given}
        planned = {name: value for name, value in known.items() if name not in self.given}
        if planned:
            self.lines.append(Line(planned, reason))

    def value(self, name: str) -> Any:
        """Return the given or planned value of an option, or its default."""
        planned = {key: value for line in self.lines for key, value in line.values.items()}
        return (planned | self.given).get(name, getattr(TrainConfig, name, None))

    def resolve(self) -> tuple[TrainConfig, Any]:
        """Return the configuration and the method's options as planned so far."""
        planned = {name: value for line in self.lines for name, value in line.values.items()}
        kinds = (TrainConfig, find_method(self.method).Options)
        config, options = from_mapping(kinds, planned | self.given | {"method": self.method}, "options")
        return config, options
