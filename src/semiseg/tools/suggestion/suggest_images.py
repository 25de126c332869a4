"""``suggest``: from a run and a pool of images to a list, a contact sheet and drafts."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from semiseg.data.dataset import SegmentationDataset
from semiseg.data.files.atomic_folder import new_folder
from semiseg.data.splits.list_files import write_list
from semiseg.data.splits.make_splits import link_image
from semiseg.errors import UserError, lookup
from semiseg.tools.models.trained_model import Model, load
from semiseg.tools.suggestion.candidates import drawn, find_candidates
from semiseg.tools.suggestion.contact_sheet import Entry, contact_sheet, entry
from semiseg.tools.suggestion.draft_masks import Mask, write_cvat, write_label_studio
from semiseg.tools.suggestion.ranking import DIVERSE, RANKINGS, Choice, choose
from semiseg.tools.suggestion.uncertainty import Measures, features_of, measure, tell
from semiseg.training.run_directory import RunDirectory
from semiseg.visualization.mask_pictures import save_indexed_png, save_picture

DEFAULT = "combined"
POOL = 2000  # images looked at, where nothing else is said: some minutes on a CPU
SHEET = 40  # suggestions on one contact sheet


@dataclass(frozen=True)
class Suggestion:
    """An image to annotate.

    Attributes:
        id: its name in lists.
        score: what it was chosen for; higher is better, comparable within one call only.
        uncertainty: of the student, in [0, 1].
        disagreement: of the teachers, in [0, 1].
        distance: cosine distance in [0, 2] to the nearest image that is annotated or suggested before it.
        classes: what the student sees in it, the largest share first.
    """

    id: str
    score: float
    uncertainty: float
    disagreement: float
    distance: float
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Suggestions:
    """What was suggested, best first, and where the files are."""

    folder: Path
    images: tuple[Suggestion, ...]


def suggest(
    run: str | Path,
    n: int = 20,
    data: str | Path | None = None,
    out: str | Path | None = None,
    *,
    by: str = DEFAULT,
    pool: int = POOL,
    seed: int = 0,
    checkpoint: str = "best",
    accelerator: str = "auto",
) -> Suggestions:
    """Say which images to annotate next, and draft their masks.

    Args:
        run: a run, whose student is asked, and its teachers.
        n: how many images.
        data: where they are chosen from: the images without a mask there. The run's unlabeled images where absent.
        out: a new directory: ``suggestions.txt``, ``suggestions.csv``, ``contact-sheet.png``, and ``images/``,
            ``masks/``, ``cvat.zip``, ``label-studio.json`` with drafts. ``RUN/suggestions`` where absent.
        by: ``combined``, ``uncertainty``, ``disagreement``, ``diversity`` or ``random``, see ``ranking.py``.
        pool: look at this many images only, drawn at random.
        seed: of whatever is drawn.
        checkpoint: ``best`` or ``last``.
        accelerator: ``auto``, ``cpu``, ``cuda`` or ``mps``.

    Raises:
        UserError: no run, no image to choose from, or ``out`` exists.
    """
    lookup("ranking", by, RANKINGS)
    if n < 1 or pool < 1:
        raise UserError(f"-n {n}, --pool {pool}: both must be at least 1")
    directory = RunDirectory.open(run)
    folder = Path(out) if out is not None else directory.path / "suggestions"
    if folder.exists():
        raise UserError(f"{folder} exists: choose another --out")
    # Before the images are read: whether it can be written is known at once.
    with new_folder(folder, "images", "masks") as draft:
        model = load(run, None, checkpoint, accelerator)
        c = find_candidates(directory, str(data) if data is not None else None)
        measures = measure(model, c.dataset, drawn(c.ids, pool, seed), progress)
        if not measures.ids:
            raise UserError(f"{c.dataset.name}: none of the images could be read: see the lines above")
        known = features_of(model, c.known, c.annotated) if by in DIVERSE else measures.features[:0]
        suggestions = describe(measures, choose(measures, known, n, by, seed), model.classes)
        write(draft, model, c.dataset, suggestions)
    return Suggestions(folder, suggestions)


def describe(measures: Measures, choice: Choice, classes: Sequence[str]) -> tuple[Suggestion, ...]:
    """Put numbers and names together."""
    found = []
    for index, score, distance in zip(choice.indices, choice.scores, choice.distances, strict=True):
        shares = measures.shares[index]
        seen = tuple(classes[k] for k in shares.argsort()[::-1] if shares[k] > 0)
        numbers = float(measures.uncertainty[index]), float(measures.disagreement[index]), distance
        found.append(Suggestion(measures.ids[index], score, *numbers, seen))
    return tuple(found)


def write(folder: Path, model: Model, dataset: SegmentationDataset, suggestions: Sequence[Suggestion]) -> None:
    """Write the list, the reasons, and the drafts."""
    write_list(folder / "suggestions.txt", [one.id for one in suggestions])
    write_csv(folder / "suggestions.csv", suggestions)
    write_drafts(folder, model, dataset, suggestions)


def write_csv(path: Path, suggestions: Sequence[Suggestion]) -> None:
    """Write a line a suggestion."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["rank", "image", "score", "uncertainty", "disagreement", "distance", "classes"])
        for rank, one in enumerate(suggestions, 1):
            numbers = (one.score, one.uncertainty, one.disagreement, one.distance)
            table.writerow([rank, one.id, *(f"{number:.6g}" for number in numbers), "; ".join(one.classes)])


def write_drafts(folder: Path, model: Model, dataset: SegmentationDataset, suggestions: Sequence[Suggestion]) -> None:
    """Write images, drafts of their masks in three forms, and contact sheets."""
    masks: dict[str, Mask] = {}
    files: dict[str, str] = {}
    entries: list[Entry] = []
    for rank, one in enumerate(suggestions, 1):
        image = dataset.read_image(one.id)
        mask, confidence = model(image)
        masks[one.id] = mask.cpu().numpy()
        files[one.id] = link_image(dataset, one.id, folder / "images").name
        save_indexed_png(mask, model.palette, folder / "masks" / f"{one.id}.png")
        entries.append(entry(f"{rank}. {one.id}", image, mask.cpu(), confidence, model.palette))
    write_cvat(folder / "cvat.zip", masks, model.classes, model.palette)
    write_label_studio(folder, files, masks, model.classes, model.palette)
    for number, start in enumerate(range(0, len(entries), SHEET)):
        name = f"contact-sheet-{number + 1}.png" if number else "contact-sheet.png"
        save_picture(contact_sheet(entries[start : start + SHEET], model.classes, model.palette), folder / name)


def progress(done: int, count: int) -> None:
    """Say how far it is, ten times on the way."""
    if done == count or done * 10 // count > (done - 1) * 10 // count:
        tell(f"{done} of {count} images looked at")
