"""Configuration: strict keys, YAML round trips, merging, and errors that name file and option."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from semiseg.config import TrainConfig, describe, from_mapping, read_yaml, to_mapping
from semiseg.errors import UserError, did_you_mean, lookup
from semiseg.methods import METHODS
from semiseg.presets import PRESETS
from semiseg.tools.comparison.comparison_request import plan_comparison
from semiseg.training.resolve_config import resolve


@pytest.mark.parametrize("method", METHODS)
def test_configuration_survives_a_round_trip_through_yaml(method: str) -> None:
    kinds = TrainConfig, METHODS[method].Options
    given = TrainConfig(data="d", method=method, labeled="1/16", lr=1e-5, val_every="never"), METHODS[method].Options()
    text = yaml.safe_dump(to_mapping(*given))
    assert from_mapping(kinds, yaml.safe_load(text), "c.yaml") == given


@pytest.mark.parametrize("method", METHODS)
def test_options_of_method_and_run_have_different_names(method: str) -> None:
    own = {field.name for field in fields(METHODS[method].Options)}
    assert not own & {field.name for field in fields(TrainConfig)}


@pytest.mark.parametrize("kind", [TrainConfig, *(method.Options for method in METHODS.values())])
def test_every_option_has_a_docstring(kind: type) -> None:
    import inspect

    source = inspect.getsource(kind)
    for field in fields(kind):
        after = source.split(f"\n    {field.name}: ")[1].split("\n")
        assert after[1].strip().startswith('"""'), field.name


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"labeled": 23}, "23"),
        ({"labeled": "1/16"}, "1/16"),
        ({"labeled": None}, None),
        ({"lr": "1e-3"}, 0.001),  # a string in YAML 1.1
        ({"lr": 1}, 1),
        ({"crop-size": 64}, 64),
        ({"val_every": "never"}, "never"),
        ({"val_every": 5}, 5),
        ({"devices": "auto"}, "auto"),
        ({"pool": ["classmix"]}, ("classmix",)),
    ],
)
def test_yaml_values_are_converted(values: dict[str, Any], expected: Any) -> None:
    config, options = from_mapping((TrainConfig, METHODS["dual-teacher"].Options), values, "c.yaml")
    key = next(iter(values)).replace("-", "_")
    assert getattr(config if hasattr(config, key) else options, key) == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"crop_siz": 64}, "c.yaml: unknown key 'crop_siz': did you mean crop_size?"),
        ({"Data": "x"}, "c.yaml: unknown key 'Data': did you mean data?"),
        ({"steps": "ten"}, "c.yaml: steps is 'ten': expected a whole number or nothing"),
        ({"steps": 1.5}, "c.yaml: steps is 1.5: expected a whole number or nothing"),
        ({"steps": True}, "c.yaml: steps is True: expected a whole number or nothing"),
        ({"lr": True}, "c.yaml: lr is True: expected a number"),
        ({"tensorboard": 1}, "c.yaml: tensorboard is 1: expected true or false"),
        ({"data": ["a"]}, "c.yaml: data is ['a']: expected text"),
        ({"optimizer": "adam"}, "c.yaml: optimizer is 'adam': expected adamw, sgd"),
        ({"val_every": "often"}, "c.yaml: val_every is 'often': expected a whole number or auto, never"),
        ({"pool": "cutmix"}, "c.yaml: pool is 'cutmix': expected a list of text"),
        ({"pool": ["cutmix", 1]}, "c.yaml: pool is ['cutmix', 1]: expected a list of text"),
        ({"pool": ["cutmax"]}, "c.yaml: pool: unknown mixing 'cutmax': choose from cutmix, classmix"),
        ({"threshold_mode": "pixels"}, "c.yaml: threshold_mode is 'pixels': expected pixel, image, batch, none"),
        ({"threshold": 2}, "c.yaml: threshold is 2: it must be in [0, 1]"),
    ],
)
def test_wrong_values_are_reported(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        from_mapping((TrainConfig, METHODS["dual-teacher"].Options), values, "c.yaml")
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("batch_size", 0),
        ("crop_size", 15),
        ("image_scale", 0.0),
        ("scale_min", 3.0),
        ("scale_min", 0.0),
        ("steps", 0),
        ("epochs", 0),
        ("lr", 0.0),
        ("lr", float("nan")),
        ("lr", float("inf")),
        ("clip_norm", float("inf")),
        ("scale_max", float("inf")),
        ("class_balance", 1.5),
        ("workers", -1),
        ("devices", 0),
        ("nodes", 0),
        ("val_every", 0),
        ("val_limit", 0),
    ],
)
def test_values_out_of_range_name_their_option(option: str, value: float) -> None:
    with pytest.raises(UserError, match=f"--{option.replace('_', '-')} is .*: it must be "):
        TrainConfig(**{option: value})


def test_types_in_words() -> None:
    assert describe(int | None) == "a whole number or nothing"
    assert describe(tuple[float, ...]) == "a list of a number"


def test_reading_yaml(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("# empty\n")
    assert read_yaml(path) == {}
    path.write_text("steps: 5\n")
    assert read_yaml(path) == {"steps": 5}
    for text, message in (
        ("- 1", "expected lines of 'option: value'"),
        ("1: 2", "expected lines of 'option: value'"),
        ("steps: [1", "not valid YAML"),
        ("!!python/object/apply:os.system ['true']", "not valid YAML"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=f"c.yaml: {message}") as error:
            read_yaml(path)
        assert "\n" not in str(error.value)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"c\.yaml: not valid YAML"):
        read_yaml(path)


# Merging.


def test_arguments_override_file_preset_and_defaults(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("preset: small\nsteps: 7\nburn_in: 0.5\nmethod: dual-teacher\n")
    config, options = resolve({"steps": 8}, file=str(file))
    assert (config.steps, config.batchnorm, options.burn_in) == (8, "frozen-encoder", 0.5)
    assert config.lr == TrainConfig.lr
    config, options = resolve({"method": "cps"}, preset="small")
    assert config.method == "dual-student" and config.batchnorm == "frozen-encoder"


def test_unknown_key_names_its_file(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("crop_siz: 32\n")
    with pytest.raises(UserError, match=r"c\.yaml: unknown key 'crop_siz'"):
        resolve({"method": "supervised"}, file=str(file))
    with pytest.raises(UserError, match="options: unknown key 'crop_siz'"):
        resolve({"crop_siz": 32})


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("method", METHODS)
def test_every_preset_fits_every_method(preset: str, method: str) -> None:
    config, _ = resolve({"method": method}, preset=preset)
    assert config.method == method
    assert PRESETS[preset].keys() <= METHODS.keys()


CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs").rglob("*.yaml"))
COMPARISONS = [path for path in CONFIGS if "\nmethods:" in path.read_text()]
SHIPPED = [path for path in CONFIGS if path not in COMPARISONS]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_configuration_loads(path: Path) -> None:
    assert path.read_text().startswith("#")  # a header with purpose and command
    config, _ = resolve({}, file=str(path))
    assert config.method in METHODS


@pytest.mark.parametrize("path", COMPARISONS, ids=lambda path: path.stem)
def test_comparison_has_the_same_options_as_the_configuration_of_each_method(path: Path, tmp_path: Path) -> None:
    assert path.read_text().startswith("#")
    plan = plan_comparison(tmp_path / "new", None, None, None, None, str(path), {"data": "shapes"})
    own = {name: path.with_name(f"{name}.yaml") for name in plan.entries if path.with_name(f"{name}.yaml").is_file()}
    assert "dual-teacher" in own
    for name, file in own.items():
        config, options = resolve({}, file=str(file))
        entry = plan.entries[name]
        shared = replace(entry.config, data=config.data, labeled=plan.blocks[0].labeled[0])
        assert (shared, entry.options) == (config, options)


# Suggestions.


def test_close_names_are_suggested() -> None:
    assert did_you_mean("studnt", ["student", "teacher"]) == "did you mean student?"
    assert did_you_mean("zzz", ["student", "teacher"]) == "choose from student, teacher"
    assert lookup("network", "a", {"a": 1}) == 1
    with pytest.raises(UserError, match="unknown network 'b': choose from a"):
        lookup("network", "b", {"a": 1})


def test_given_steps_or_epochs_override_those_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("epochs: 80\n")
    config, _ = resolve({"steps": 5}, file=str(tmp_path / "c.yaml"))
    assert (config.steps, config.epochs) == (5, None)
    (tmp_path / "c.yaml").write_text("steps: 80\n")
    config, _ = resolve({"epochs": 5}, file=str(tmp_path / "c.yaml"))
    assert (config.steps, config.epochs) == (None, 5)
