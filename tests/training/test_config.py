"""Configuration: strict keys, conversion to and from YAML, value ranges, and the order in which sources are merged."""

from __future__ import annotations

import inspect
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from semiseg.config import DeprecatedOption, TrainConfig, describe, from_mapping, read_yaml, to_mapping
from semiseg.errors import UserError, did_you_mean, lookup
from semiseg.methods import METHODS
from semiseg.presets import PRESETS
from semiseg.tools.comparison.comparison_request import plan_comparison
from semiseg.training.build import network_options
from semiseg.training.resolve_config import complete, resolve
from semiseg.training.run_directory import RunDirectory

DUAL_TEACHER = (TrainConfig, METHODS["dual-teacher"].Options)


def test_configurations_survive_a_round_trip_through_yaml() -> None:
    for name, method in METHODS.items():
        given = TrainConfig(data="d", method=name, labeled="1/16", lr=1e-5, val_every="never"), method.Options()
        text = yaml.safe_dump(to_mapping(*given))
        assert from_mapping((TrainConfig, method.Options), yaml.safe_load(text), "c.yaml") == given


def test_method_options_do_not_shadow_run_options() -> None:
    for method in METHODS.values():
        own = {field.name for field in fields(method.Options)}
        assert not own & {field.name for field in fields(TrainConfig)}


@pytest.mark.parametrize("kind", [TrainConfig, *(method.Options for method in METHODS.values())])
def test_every_option_has_a_docstring(kind: type) -> None:
    source = "".join(inspect.getsource(base) for base in kind.__mro__[:-1])
    for field in fields(kind):
        after = source.split(f"\n    {field.name}: ")[1].split("\n")
        assert after[1].strip().startswith('"""'), field.name


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"labeled": 23}, "23"),
        ({"labeled": "1/16"}, "1/16"),
        ({"labeled": None}, None),
        ({"lr": "1e-3"}, 0.001),  # text in YAML 1.1
        ({"lr": 1}, 1),
        ({"crop-size": 64}, 64),
        ({"val_every": "never"}, "never"),
        ({"val_every": 5}, 5),
        ({"devices": "auto"}, "auto"),
        ({"pool": ["classmix"]}, ("classmix",)),
    ],
)
def test_from_mapping_converts_values(values: dict[str, Any], expected: Any) -> None:
    config, options = from_mapping(DUAL_TEACHER, values, "c.yaml")
    key = next(iter(values)).replace("-", "_")
    assert getattr(config if hasattr(config, key) else options, key) == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"crop_siz": 64}, "unknown key 'crop_siz': did you mean crop_size?"),
        ({"Data": "x"}, "unknown key 'Data': did you mean data?"),
        ({"steps": "ten"}, "--steps: 'ten' is not allowed. Give an integer or null."),
        ({"steps": 1.5}, "--steps: 1.5 is not allowed. Give an integer or null."),
        ({"steps": True}, "--steps: True is not allowed. Give an integer or null."),
        ({"lr": True}, "--lr: True is not allowed. Give a number."),
        ({"lr": -1}, "--lr: -1 is out of range. Choose a value above 0."),
        ({"tensorboard": 1}, "--tensorboard: 1 is not allowed. Give true or false."),
        ({"data": ["a"]}, "--data: ['a'] is not allowed. Give text."),
        ({"optimizer": "adam"}, "--optimizer: 'adam' is not allowed. Give adamw or sgd."),
        ({"val_every": "often"}, "--val-every: 'often' is not allowed. Give an integer or auto or epoch or never."),
        ({"pool": "cutmix"}, "--pool: 'cutmix' is not allowed. Give a list (text)."),
        ({"pool": ["cutmix", 1]}, "--pool: ['cutmix', 1] is not allowed. Give a list (text)."),
        (
            {"threshold_mode": "pixels"},
            "--threshold-mode: 'pixels' is not allowed. Give pixel or image or batch or none.",
        ),
    ],
)
def test_from_mapping_rejects_wrong_values(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        from_mapping(DUAL_TEACHER, values, "c.yaml")
    assert str(error.value) == f"c.yaml: {message}"
    assert error.value.path == Path("c.yaml")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"threshold": 2}, r"c.yaml: .*threshold.*in \[0, 1\]"),
        ({"pool": ["cutmax"]}, "c.yaml: .*pool: unknown mixing 'cutmax'.*cutmix, classmix"),
    ],
)
def test_from_mapping_reports_values_that_a_method_rejects(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        from_mapping(DUAL_TEACHER, values, "c.yaml")


@pytest.mark.parametrize(
    ("option", "value", "rule"),
    [
        ("batch_size", 0, "of at least 1"),
        ("accumulate", 0, "of at least 1"),
        ("crop_size", 15, r"in \[16, 16384\]"),
        ("crop_size", 2**14 + 1, r"in \[16, 16384\]"),
        ("image_scale", 0.0, r"in \(0, 4\]"),
        ("scale_min", 0.0, "above 0"),
        ("steps", 0, "of at least 1"),
        ("epochs", 0, "of at least 1"),
        ("epochs", 10**10, "of at most 1000000000"),
        ("lr", 0.0, "above 0"),
        ("lr", float("nan"), "above 0"),
        ("lr", float("inf"), "above 0"),
        ("clip_norm", float("inf"), "of at least 0"),
        ("scale_max", float("inf"), "above 0"),
        ("class_balance", 1.5, r"in \[0, 1\]"),
        ("ohem_threshold", -0.1, r"in \[0, 1\]"),
        ("workers", -1, r"in \[0, 1024\]"),
        ("devices", 0, r"in \[1, 4096\]"),
        ("nodes", 0, "of at least 1"),
        ("seed", 2**63, "in "),
        ("val_every", 0, "of at least 1"),
        ("val_limit", 0, "of at least 1"),
    ],
)
def test_values_out_of_range_name_their_option(option: str, value: float, rule: str) -> None:
    with pytest.raises(UserError, match=f"^--{option.replace('_', '-')}: .* is out of range. Choose a value {rule}"):
        TrainConfig(**{option: value})  # type: ignore[arg-type]


def test_names_must_be_valid_utf8() -> None:
    with pytest.raises(UserError, match=r"^--data: must be valid UTF-8\. Rename the file or directory.$"):
        TrainConfig(data="\udcff")


def test_smallest_scale_is_at_most_the_largest() -> None:
    with pytest.raises(UserError, match=r"^--scale-min: 3.0 is above --scale-max \(2.0\). Lower it or raise"):
        TrainConfig(scale_min=3.0)


def test_bounds_are_printed_in_full() -> None:
    with pytest.raises(UserError) as error:
        TrainConfig(seed=2**63)
    largest = 9223372036854775807
    assert str(error.value) == f"--seed: {2**63} is out of range. Choose a value in [-{largest}, {largest}]."


def test_tensorboard_is_a_deprecated_alias_of_a_tracker() -> None:
    with pytest.warns(DeprecatedOption, match="Pass --tracker tensorboard"):
        config = TrainConfig(tensorboard=True)
    assert config == TrainConfig(tracker="tensorboard")
    with pytest.warns(DeprecatedOption):
        (config,) = from_mapping((TrainConfig,), {"tensorboard": True, "tracker": "wandb"}, "c.yaml")
    assert (config.tracker, config.tensorboard) == ("wandb", True)  # both are written, as in 0.1.0


def test_types_are_described_in_words() -> None:
    assert describe(int | None) == "an integer or null"
    assert describe(tuple[float, ...]) == "a list (a number)"


def test_read_yaml(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("# comment\n")
    assert read_yaml(path) == {}
    path.write_text("steps: 5\n")
    assert read_yaml(path) == {"steps": 5}
    for text, message in (
        ("- 1", "not a mapping of options to values. Write lines 'option: value'"),
        ("1: 2", "not a mapping of options to values. Write lines 'option: value'"),
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


# Merging


def test_resolve_merges_defaults_preset_file_and_arguments_in_this_order(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("preset: small\nsteps: 7\nburn_in: 0.5\nmethod: dual-teacher\n")
    config, options = resolve({"steps": 8}, file=str(file))
    assert (config.steps, config.batchnorm, options.burn_in) == (8, "frozen-encoder", 0.5)
    assert config.lr == TrainConfig.lr
    config, options = resolve({"method": "cps"}, preset="small")
    assert config.method == "dual-student" and config.batchnorm == "frozen-encoder"


def test_unknown_keys_name_the_file_that_holds_them(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("crop_siz: 32\n")
    with pytest.raises(UserError, match=r"c\.yaml: unknown key 'crop_siz'"):
        resolve({"method": "supervised"}, file=str(file))
    with pytest.raises(UserError, match="options: unknown key 'crop_siz'"):
        resolve({"crop_siz": 32})


def test_every_preset_fits_every_method() -> None:
    for preset, by_method in PRESETS.items():
        assert by_method.keys() <= METHODS.keys()
        for method in METHODS:
            assert resolve({"method": method}, preset=preset)[0].method == method


def test_a_given_length_overrides_the_length_in_the_file(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("epochs: 80\n")
    config, _ = resolve({"steps": 5}, file=str(tmp_path / "c.yaml"))
    assert (config.steps, config.epochs) == (5, None)
    (tmp_path / "c.yaml").write_text("steps: 80\n")
    config, _ = resolve({"epochs": 5}, file=str(tmp_path / "c.yaml"))
    assert (config.steps, config.epochs) == (None, 5)


def test_the_floor_of_ohem_is_given_by_process_or_by_image(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^--ohem-min-kept: cannot be combined with --ohem-min-kept-per-image"):
        TrainConfig(ohem_min_kept=100, ohem_min_kept_per_image=50)
    (tmp_path / "c.yaml").write_text("ohem_min_kept: 100000\n")
    config, _ = resolve({"ohem_min_kept_per_image": 25000}, file=str(tmp_path / "c.yaml"))
    assert (config.ohem_min_kept, config.ohem_min_kept_per_image) == (None, 25000)


CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs").rglob("*.yaml"))
COMPARISONS = [path for path in CONFIGS if "\nmethods:" in path.read_text()]


def test_every_shipped_configuration_is_valid() -> None:
    for path in CONFIGS:
        assert path.read_text().startswith("#"), path  # its purpose and the command
        if path not in COMPARISONS:
            assert resolve({}, file=str(path))[0].method in METHODS


@pytest.mark.parametrize("path", COMPARISONS, ids=lambda path: path.stem)
def test_a_comparison_trains_each_method_with_its_own_configuration(path: Path, tmp_path: Path) -> None:
    plan = plan_comparison(tmp_path / "new", None, None, None, None, str(path), {"data": "shapes"})
    own = {name: path.with_name(f"{name}.yaml") for name in plan.entries if path.with_name(f"{name}.yaml").is_file()}
    assert "dual-teacher" in own
    for name, file in own.items():
        config, options = resolve({}, file=str(file))
        entry = plan.entries[name]
        shared = replace(entry.config, data=config.data, labeled=plan.blocks[0].labeled[0])
        assert (shared, entry.options) == (config, options)


# Suggestions


def test_close_names_are_suggested() -> None:
    assert did_you_mean("studnt", ["student", "teacher"]) == "did you mean student?"
    assert did_you_mean("zzz", ["student", "teacher"]) == "choose from student, teacher"
    assert lookup("network", "a", {"a": 1}) == 1
    with pytest.raises(UserError, match=r"^unknown network 'b'\. Choose from a\.$"):
        lookup("network", "b", {"a": 1})


def test_error_message_does_not_put_a_period_after_a_question() -> None:
    with pytest.raises(UserError) as error:
        resolve({"method": "dual-techer"})
    assert "did you mean dual-teacher? Give your own" in str(error.value)


@pytest.mark.parametrize(
    ("method", "line", "message"), [("supervised", "lr: -1", "--lr: -1"), ("fixmatch", "threshold: 3", "--thr")]
)
def test_value_out_of_range_names_its_file(tmp_path: Path, method: str, line: str, message: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(line)
    option, _, value = line.partition(": ")
    with pytest.raises(UserError, match=f"c.yaml: {message}"):
        resolve({"method": method}, file=str(file))
    with pytest.raises(UserError, match=f"^options: {message}"):
        resolve({"method": method, option: float(value)}, file=str(file))


def test_run_without_method_names_its_file(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("lr: 1.0")
    with pytest.raises(UserError, match=r"config\.yaml: names no method\. Restore the file"):
        RunDirectory(tmp_path).read_config()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"method": "supervised", "encoder": "mit_b1"}, (0.1, 0.1, None)),
        ({"method": "mean-teacher", "encoder": "mit_b1", "encoder_drop_path": 0.0}, (0.0, 0.1, None)),
        ({"method": "dual-teacher", "encoder": "mit_b1"}, (None, None, None)),
        ({"method": "supervised", "encoder": "resnet50"}, (None, None, None)),
        ({"architecture": "dpt", "encoder": "vit_small_patch14_dinov2"}, (None, None, 2)),
        ({"architecture": "dpt", "network_version": 1}, (None, None, 1)),
    ],
)
def test_new_runs_save_the_defaults_that_earlier_versions_lack(options: dict[str, Any], expected: Any) -> None:
    config = complete(TrainConfig(**options))
    assert (config.encoder_drop_path, config.head_dropout, config.network_version) == expected


def test_runs_of_version_0_1_keep_their_networks() -> None:
    assert network_options(TrainConfig(architecture="dpt")).version == 1
    assert network_options(TrainConfig(architecture="segformer", encoder="mit_b1")).encoder_drop_path == 0
