"""LARY's tables: the published form with the published rows beside it, and the confound panel.

A record is what a probe left in its probe.json.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxlab.evals.lary import metrics
from jaxlab.evals.tables import Cell, Table

# Accuracy in percent of atomic, human and robot actions, and errors of the four sets of chunks
# (arXiv 2604.11689, its table of results; general encoders, then latent action models).
_PUBLISHED = {
    "V-JEPA2": ("semantic", 79.09, 80.35, 70.43, 0.27, 0.07, 0.32, 0.33),
    "DINOv3": ("semantic", 60.79, 76.19, 69.06, 0.22, 0.06, 0.22, 0.24),
    "Wan2.2": ("pixel", 14.91, 67.77, 65.39, 0.39, 0.09, 0.34, 0.39),
    "FLUX.2-dev": ("pixel", 51.95, 46.12, 44.36, 0.25, 0.04, 0.47, 0.62),
    "LAPA": ("embodied LAM", 22.27, 14.61, 23.64, 0.96, 0.95, 0.96, 1.00),
    "UniVLA": ("embodied LAM", 18.62, 19.08, 18.56, 0.82, 0.74, 0.94, 0.97),
    "villa-X": ("embodied LAM", 15.00, 17.80, 29.90, 0.86, 0.72, 0.94, 0.97),
    "LAPA-MAGVIT2": ("general LAM", 33.12, 59.70, 29.53, 0.59, 0.36, 0.80, 0.83),
    "LAPA-SigLIP2": ("general LAM", 46.83, 54.74, 29.44, 0.57, 0.30, 0.86, 0.88),
    "LAPA-DINOv2": ("general LAM", 58.04, 55.86, 34.19, 0.55, 0.26, 0.85, 0.86),
    "LAPA-DINOv3": ("general LAM", 56.27, 64.19, 27.04, 0.50, 0.25, 0.82, 0.84),
}
_TRACKS = (*metrics.LABELS, *metrics.CHUNKS)
_NOTE = (
    "Accuracy is micro, in percent; errors are of z-scores, and 1 is what the mean predictor has. "
    "Averages: of the two sets of clips, by which the project's page ranks; of all three sets of "
    "labels, which the paper's text quotes; of the four sets of chunks. Published rows: columns of "
    "the paper, with averages computed from them (for UniVLA the paper prints 17.99, and its "
    "columns give 18.75)."
)
# Settings of the headline's cells; all else is a control.
_PLAIN = {"input": "both", "components": 0, "split": "official", "actions": "absolute"}


@dataclass(frozen=True)
class Record:
    """A probe: what it was (`about` of probe.json), and its scores."""

    name: str
    about: Mapping[str, Any]
    scores: Mapping[str, float]

    @property
    def encoder(self) -> str:
        """The encoder's name."""
        return str(self.about.get("encoder") or "features of the files")

    @property
    def plain(self) -> bool:
        """Whether it is no control."""
        return all(self.about.get(key, value) == value for key, value in _PLAIN.items())


def read(runs: Mapping[str, Path]) -> list[Record]:
    """The records of those work directories that hold one, by name.

    Raises:
        ValueError: a probe.json is damaged, by its path.
    """
    found = []
    for name, run in runs.items():
        path = run / "probe.json"
        if not path.exists():
            continue
        try:
            content = json.loads(path.read_text())
            found.append(Record(name, content["about"], content["scores"]))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: not a probe's scores: {error!r}") from error
    return found


def tables(records: Sequence[Record]) -> list[Table]:
    """The headline table, and the panel of controls."""
    return [headline(records), panel(records)]


def headline(records: Sequence[Record]) -> Table:
    """The published form: a row of each encoder, on all tracks, and the published rows."""
    scores: dict[str, dict[str, float]] = {}
    for record in records:
        if record.plain:
            value = record.scores.get("micro", record.scores.get("mse"))
            track, model = str(record.about["track"]), record.encoder
            if track in scores.get(model, {}):
                # Another probe, or other options of the encoder: a row of its own.
                model = f"{model}, {record.name}"
            if value is not None:
                scores.setdefault(model, {})[track] = value
    others = dict.fromkeys(track for one in scores.values() for track in one)
    names = [*(track for track in others if track not in _TRACKS), *_TRACKS]
    rows = [_row(encoder, "here", one, names) for encoder, one in scores.items()]
    for model, (kind, *values) in _PUBLISHED.items():
        shares = [
            value / 100 if i < len(metrics.LABELS) else value for i, value in enumerate(values)
        ]
        rows.append(_row(model, kind, dict(zip(_TRACKS, shares, strict=True)), names))
    return Table("Headline", rows, _NOTE)


def panel(records: Sequence[Record]) -> Table:
    """Every probe with what it saw, and beside it what the mean or the majority scores."""
    rows: list[dict[str, Cell]] = []
    for record in sorted(records, key=lambda one: (one.encoder, str(one.about["track"]))):
        about, scores = record.about, record.scores
        components = about.get("components", 0)
        seen = [str(about.get("input", "both"))]
        seen += [f"PCA {components}"] if components else []
        seen += ["grouped split"] if about.get("split") == "grouped" else []
        row: dict[str, Cell] = {
            "encoder": record.encoder,
            "track": str(about["track"]),
            "actions": about.get("actions", "class"),
            "sees": ", ".join(seen),
            "numbers": about.get("numbers"),
        }
        for key in ("micro", "macro", "mse"):
            row[key] = scores.get(key)
        low, high = (scores.get(f"{_score(scores)}_{end}") for end in ("low", "high"))
        row["95 %"] = None if low is None or high is None else f"[{low:.3f}, {high:.3f}]"
        row["inner"] = scores.get(f"{_score(scores)}_inner")
        row["without leaks"] = scores.get("micro_clean")
        row["floor"] = about.get("share of the most frequent class", about.get("mean predictor"))
        rows.append(row)
    note = (
        "sees: which frames, at the full size or as so many principal components of train. inner: "
        "the head that an inner share of train chose, where micro or mse is that of the head that "
        "is best on val. without leaks: rows of val alone whose twin or reversal is not in train. "
        "floor: the majority class of train, or the error of the mean predictor. An interval is "
        "clustered by episode."
    )
    return Table("Panel", rows, note)


def _score(scores: Mapping[str, float]) -> str:
    return "micro" if "micro" in scores else "mse"


def _row(
    name: str, kind: str, scores: Mapping[str, float], tracks: Sequence[str]
) -> dict[str, Cell]:
    averages = metrics.averages(scores)
    row: dict[str, Cell] = {"model": name, "kind": kind}

    def percent(value: float | None) -> Cell:
        return None if value is None else f"{100 * value:.2f}"

    row["two sets of clips"] = percent(averages["composite"])
    row["three sets of labels"] = percent(averages["all"])
    row["four sets of chunks"] = averages["regression"]
    for track in tracks:
        value = scores.get(track)
        labels = track in metrics.LABELS or track in ("synthetic_pairs", "synthetic_clips")
        row[track] = percent(value) if labels else value
    return row


def write(workdir: Path, records: Sequence[Record], title: str) -> list[Path]:
    """Write lary.md and lary.json.

    Returns:
        The files; none where there are no records.
    """
    if not records:
        return []
    found = tables(records)
    lines = [f"# {title}", ""]
    for table in found:
        lines += [*table.markdown(), ""]
    (workdir / "lary.md").write_text("\n".join(lines))
    content = {"title": title, "tables": [table.to_json() for table in found]}
    (workdir / "lary.json").write_text(json.dumps(content, indent=1) + "\n")
    return [workdir / "lary.md", workdir / "lary.json"]


def order(records: Sequence[Record], track: str, actions: str | None = None) -> list[str]:
    """Encoders from the best to the worst on a track, by accuracy or error, no controls."""
    chosen = [
        record
        for record in records
        if record.about["track"] == track
        and record.about.get("actions") == actions
        and all(
            record.about.get(key, value) == value
            for key, value in _PLAIN.items()
            if key != "actions"
        )
    ]
    values = np.array([-one.scores.get("micro", -one.scores.get("mse", np.inf)) for one in chosen])
    return [chosen[i].encoder for i in np.argsort(values, kind="stable")]
