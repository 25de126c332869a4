"""``--init``: start a run from the network of a trained one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from torch import Tensor

from semiseg.config import TrainConfig, read_train_config
from semiseg.data.files.pixel_format import Bands, White
from semiseg.data.pixel_range import read_pixel_options
from semiseg.data.splits.dataset_split import Split
from semiseg.data.splits.list_files import read_lines
from semiseg.errors import UserError
from semiseg.methods import Method
from semiseg.networks import SegmentationNetwork
from semiseg.networks.encoder_weights import describe_weights
from semiseg.training.checkpoint import check_finite, load_checkpoint

STUDENT, HEAD, AUX_HEAD, ENCODER = "student.", "head.", "aux_head.", "encoder."
STRUCTURE = ("output_stride", "multi_grid", "align_corners")
"""Options of the network that change its output but not the shapes of its weights."""


@dataclass(frozen=True)
class InitialNetwork:
    """The student of a trained run, or a published network.

    Attributes:
        source: The run or checkpoint.
        step: Its step.
        config: The options of the run.
        classes: Its classes.
        weights: Its state dict.
        run: The run directory, or None.
        published: The description of a published network, or "".
    """

    source: Path
    step: int
    config: TrainConfig
    classes: tuple[str, ...]
    weights: dict[str, Tensor]
    run: Path | None
    published: str


@lru_cache(maxsize=1)  # read for the checks before a run and for the run itself
def read_initial_network(source: Path) -> InitialNetwork:
    """Read the student of a run (from its best checkpoint, else its last one) or of a checkpoint.

    Raises:
        UserError: There is no checkpoint, or it cannot be read.
    """
    file = source
    if source.is_dir():
        names = (source / "checkpoints" / name for name in ("best.pt", "last.pt"))
        found = next((path for path in names if path.is_file()), None)
        if found is None:
            fix = "pass a run or a checkpoint of a run"
            raise UserError("holds no checkpoint (checkpoints/best.pt)", path=source, option="init", fix=fix)
        file = found
    state = load_checkpoint(file)
    weights = {k.removeprefix(STUDENT): value for k, value in state["method"].items() if k.startswith(STUDENT)}
    check_finite(file, weights)
    run = file.parent.parent if (file.parent.parent / "config.yaml").is_file() else None
    config = read_train_config(state["config"], str(file))
    return InitialNetwork(
        source, state["step"], config, tuple(state["classes"]), weights, run, state.get("published", "")
    )


def initialize(method: Method, initial: InitialNetwork, classes: tuple[str, ...]) -> None:
    """Load a trained network into the networks of a method, without its classifier if its classes differ.

    Student and teachers take encoder and decoder. Further trainable networks take the encoder only: methods with two
    students need them to differ.

    Raises:
        UserError: The architecture or a shape differs.
    """
    for module in method.modules():
        if not isinstance(module, SegmentationNetwork):
            continue
        ours, theirs = (module.architecture, module.encoder_name), (initial.config.architecture, initial.config.encoder)
        if ours != theirs:
            raise UserError(
                f"its network is {theirs[0]} with {theirs[1]}, that of this run {ours[0]} with {ours[1]}",
                path=initial.source,
                option="init",
                fix=f"pass --architecture {theirs[0]} --encoder {theirs[1]}",
            )
        encoder_only = module is not method.student and any(p.requires_grad for p in module.parameters())
        skipped = "" if initial.classes == classes else HEAD
        weights = {
            key: value
            for key, value in initial.weights.items()
            if (key.startswith(ENCODER) if encoder_only else not (skipped and key.startswith(skipped)))
        }
        try:
            keys = module.load_state_dict(weights, strict=False)
            other = [*keys.unexpected_keys, *(() if encoder_only else keys.missing_keys)]
            if other := [key for key in other if not key.startswith((HEAD, AUX_HEAD))]:
                raise RuntimeError(f"{other[0]} is in one of them only")
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()[:120]
            problem = f"its network does not fit ({reason})"
            raise UserError(problem, path=initial.source, option="init", fix="use a run with the same bands") from None


def initial_notes(
    initial: InitialNetwork, classes: tuple[str, ...], split: Split, config: TrainConfig | None = None
) -> list[str]:
    """Return notes on what is taken from a trained network, and on how its options and labeled images differ."""
    network = f"{initial.config.architecture} with {initial.config.encoder}"
    origin = f"the student of {initial.source} (step {initial.step}, {network})"
    notes = [f"init: encoder and decoder of {initial.published or origin}"]
    if initial.classes != classes:
        before, now = len(initial.classes), len(classes)
        other = f"{now} classes instead of {before}" if now != before else f"other classes ({', '.join(classes)})"
        notes.append(f"init: {other}: new classifier")
    for name in STRUCTURE if config else ():
        if (theirs := getattr(initial.config, name)) != (ours := getattr(config, name)):
            notes.append(f"warning: init: its network has {name} {theirs}, that of this run {ours}")
    listed = initial.run / "splits" / "labeled.txt" if initial.run else None
    if listed is not None and listed.is_file():
        trained = set(read_lines(listed))
        new = sum(id not in trained for id in split.labeled)
        notes.append(f"init: {new} of {len(split.labeled)} labeled images are new")
        if leaked := sum(id in trained for id in (*split.val, *split.test)):
            reason = f"were labeled images of {initial.source}, so their figures are too high"
            notes.append(f"warning: {leaked} val or test images {reason}")
    return notes


def pixel_options(config: TrainConfig, root: Path | None) -> tuple[Bands, White]:
    """Return bands and white of the options; those that neither these nor ``classes.json`` give are of ``--init``.

    Args:
        config: The options of the run.
        root: The folder of the data set, if any.
    """
    if not config.init:
        return config.bands, config.white
    initial, given = read_initial_network(Path(config.init)).config, read_pixel_options(root) if root else {}
    bands = initial.bands if config.bands is None and "bands" not in given else config.bands
    return bands, initial.white if config.white is None and "white" not in given else config.white


def encoder_source(config: TrainConfig) -> list[str]:
    """Return a note on the encoder's initial weights: timm's tag, or that ``--weights`` names a checkpoint."""
    if config.weights == "imagenet":
        return [f"weights: {describe_weights(config.encoder, config.weights)}"]
    file = Path(config.weights)
    if not file.is_file() or file.suffix == ".safetensors":
        return []
    try:
        load_checkpoint(file)
    except UserError:  # the weights of an encoder
        return []
    return [f"weights: the encoder of the student of {file}. --init {file} takes the decoder as well"]
