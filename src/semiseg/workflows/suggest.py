"""``semiseg suggest``: choose the images to annotate next, and draft their masks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from semiseg.data.files.atomic_folder import new_folder
from semiseg.errors import UserError, lookup
from semiseg.option_ranges import AT_LEAST_ONE, range_error
from semiseg.tools.models.trained_model import load
from semiseg.tools.suggestion.candidates import find_candidates, note, sample_pool
from semiseg.tools.suggestion.ranking import DIVERSE, RANKINGS, choose
from semiseg.tools.suggestion.uncertainty import measure, student_features
from semiseg.tools.suggestion.write_suggestions import Suggestion, describe, write_suggestions
from semiseg.training.run_directory import RunDirectory


@dataclass(frozen=True)
class Suggestions:
    """The suggested images, best first, and the directory with their files."""

    folder: Path
    images: tuple[Suggestion, ...]


def suggest(
    run: str | Path,
    n: int = 20,
    data: str | Path | None = None,
    out: str | Path | None = None,
    *,
    by: str = "combined",
    format: str | None = None,
    pool: int = 2000,
    seed: int = 0,
    checkpoint: str = "best",
    accelerator: str = "auto",
) -> Suggestions:
    """Choose the images to annotate next, and draft their masks.

    Args:
        run: The run whose student and teachers rate the images.
        n: Number of images.
        data: Data set to choose from: its images without a mask. Default: the unlabeled images of the run.
        out: A new directory for ``suggestions.txt``, ``suggestions.csv``, ``contact-sheet.png``, ``images/``,
            ``masks/``, ``cvat.zip`` and ``label-studio.json``. Default: ``RUN/suggestions``.
        by: ``combined``, ``uncertainty``, ``disagreement``, ``diversity`` or ``random``; see ``ranking.py``.
        format: ``labelme`` also writes ``images/NAME.json`` and ``images/labels.txt``.
        pool: Largest number of images to rate, chosen at random.
        seed: Seed of the random choices.
        checkpoint: ``best`` or ``last``.
        accelerator: ``auto``, ``cpu``, ``cuda`` or ``mps``.

    Raises:
        UserError: The run is invalid, there is no image to choose from, or ``out`` exists.
    """
    lookup("ranking", by, RANKINGS)
    if format is not None:
        lookup("format", format, {"labelme": True})
    for option, value in (("n", n), ("pool", pool)):
        if value < 1:
            raise range_error(option, value, AT_LEAST_ONE)
    directory = RunDirectory.open(run)
    folder = Path(out) if out is not None else directory.path / "suggestions"
    if folder.exists():
        raise UserError("already exists", path=folder, fix="choose another --out")
    with new_folder(folder, "images", "masks") as draft:  # first, to fail early if it cannot be written
        model = load(run, None, checkpoint, accelerator)
        candidates = find_candidates(directory, str(data) if data is not None else None)
        measurements = measure(model, candidates.dataset, sample_pool(candidates.ids, pool, seed), _print_progress)
        if not measurements.ids:
            raise UserError("no image could be read", path=candidates.dataset.name, fix="see the lines above")
        known = measurements.features[:0]
        if by in DIVERSE:
            known = student_features(model, candidates.known, candidates.annotated)
        suggestions = describe(measurements, choose(measurements, known, n, by, seed), model.classes)
        write_suggestions(draft, model, candidates.dataset, suggestions, format == "labelme")
    return Suggestions(folder, suggestions)


def _print_progress(done: int, count: int) -> None:
    """Print about ten lines of progress."""
    if done == count or done * 10 // count > (done - 1) * 10 // count:
        note(f"Rated {done} of {count} images")
