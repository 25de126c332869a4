"""Value of suggestions: annotate 12 images, then 12 and 24 more, by suggestion and at random.

    python benchmarks/suggestion.py --data CAMVID --out OUT --seeds 0 1 2

Each seed starts with a run on 12 random images. Each ranking then selects 12 more by that run, and 24 more by its own
run on 24. Every run trains from scratch; the existing masks serve as annotations. Calls with other seeds or rankings
can share OUT, and finished runs are not repeated. Prints a table of the test mIoU of all runs in OUT and writes it to
OUT/suggestion.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import semiseg
from semiseg.data import open_dataset
from semiseg.data.splits.dataset_split import sample_labeled
from semiseg.data.splits.list_files import read_lines
from semiseg.tools.suggestion.ranking import RANKINGS

LABELS = (12, 24, 48)
CONFIG = Path(__file__).parent.parent / "configs" / "camvid" / "dual-teacher.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="CamVid in the own-folder form")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rankings", nargs="+", choices=list(RANKINGS), default=["combined", "random"])
    parser.add_argument("--steps", type=int, default=600)
    args = parser.parse_args()
    dataset = open_dataset(args.data)
    for seed in args.seeds:
        first = list(sample_labeled(dataset, str(LABELS[0]), seed)[0])
        base = cell(args, f"start-{LABELS[0]}-seed{seed}", first, seed)
        for ranking in args.rankings:
            run, labeled = base, first
            for count in LABELS[1:]:
                name = f"{ranking}-{count}-seed{seed}"
                folder = args.out / "suggestions" / name
                if not folder.exists():
                    semiseg.suggest(run, count - len(labeled), args.data, folder, by=ranking, seed=seed)
                labeled = labeled + list(read_lines(folder / "suggestions.txt"))
                run = cell(args, name, labeled, seed)
    rows = table(args.out)
    (args.out / "suggestion.json").write_text(json.dumps(rows, indent=1) + "\n")
    for row in rows:
        each = ", ".join(f"{miou:.2f}" for miou in row["miou"])
        print(f"{row['ranking']:<14}{row['labels']:>4} labels{row['mean']:>8.2f}   ({each}; seeds {row['seeds']})")


def cell(args: argparse.Namespace, name: str, labeled: list[str], seed: int) -> Path:
    """Train with the labels, or resume, and evaluate on test; return the run."""
    run: Path = args.out / "runs" / name
    listed = args.out / "labeled" / f"{name}.txt"
    listed.parent.mkdir(parents=True, exist_ok=True)
    listed.write_text("".join(f"{id}\n" for id in labeled))
    if (run / "config.yaml").is_file():
        semiseg.train(resume=run)
    else:
        options: dict[str, Any] = {"labeled": str(listed), "seed": seed, "steps": args.steps, "val_every": 100}
        semiseg.train(args.data, out=run, config=str(CONFIG), **options)
    if not (run / "evaluations.jsonl").is_file():
        semiseg.evaluate(run, args.data)
    return run


def table(out: Path) -> list[dict[str, Any]]:
    """Return the test mIoU of the best checkpoints, for every ranking and number of labels, over the seeds."""
    found: dict[tuple[str, int], dict[int, float]] = {}
    for path in sorted((out / "runs").glob("*/evaluations.jsonl")):
        ranking, count, seed = path.parent.name.split("-")
        result = json.loads(path.read_text().splitlines()[0])
        found.setdefault((ranking, int(count)), {})[int(seed.removeprefix("seed"))] = result["miou"]
    return [
        {
            "ranking": ranking,
            "labels": count,
            "seeds": sorted(by_seed),
            "miou": [by_seed[seed] for seed in sorted(by_seed)],
            "mean": statistics.fmean(by_seed.values()),
        }
        for (ranking, count), by_seed in sorted(found.items(), key=lambda item: (item[0][1], item[0][0]))
    ]


if __name__ == "__main__":
    main()
