"""Look at LARYBench's files, write the synthetic world, or make a dataset of a copy.

python -m jaxlab.evals.lary check --csv=CSV --root=DATA_DIR [--train=CSV] [--decode]
python -m jaxlab.evals.lary world --out=DIR --pairs=16000 --clips=64 --unseen=400
python -m jaxlab.evals.lary dataset --csv=calvin_metadata_val.csv --root=DATA_DIR --out=DIR
"""

import argparse
from collections import Counter
from typing import Any

from jaxlab.evals.lary import media, rows, splits, world
from jaxlab.grading.rows import Rejected

_SHOWN = 5  # of the rows that something is wrong with


def main() -> None:
    """Do what the first argument says."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxlab.evals.lary",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="count the rows, and what is wrong with them")
    dataset = commands.add_parser("dataset", help="write a tensorflow-datasets copy")
    for one in (check, dataset):
        one.add_argument("--csv", required=True, help="a file of LARYBench")
        one.add_argument("--missing", choices=("error", "skip"), default="skip")
    check.add_argument("--root", help="DATA_DIR; without it no file is looked for")
    check.add_argument("--train", help="the file to train on: names the robots that it lacks")
    check.add_argument("--decode", action="store_true", help="read every image, video and chunk")
    dataset.add_argument("--root", required=True, help="DATA_DIR")
    dataset.add_argument("--out", required=True, help="the folder to write below")
    made = commands.add_parser("world", help="write the synthetic world")
    made.add_argument("--out", required=True, help="the folder to write, which is also its root")
    for name, size in (("pairs", 1000), ("seed", 0), ("clips", 0), ("unseen", 0)):
        made.add_argument(f"--{name}", type=int, default=size)
    arguments = parser.parse_args()
    run = {"check": _check, "world": _world, "dataset": _dataset}[arguments.command]
    try:
        print("\n".join(run(arguments)))
    except (ValueError, OSError, ImportError) as error:
        parser.error(str(error))


def _check(arguments: Any) -> list[str]:
    panel = rows.read(arguments.csv, arguments.root, arguments.missing, bad_rows="skip")
    lines = [f"{len(panel.rows)} rows of track {panel.track}, split {panel.split or 'not named'}"]
    lines += _listed("malformed", [f"{r.where}: {r.cause}" for r in panel.rejected])
    lines += _listed("with missing files", [f"{m.where}: {m.path}" for m in panel.missing])
    kinds = Counter(leak.kind for leak in panel.leakage)
    found = f"{kinds['twin']} twins, {kinds['reversal']} reversals, in " if panel.beside else ""
    beside = ", ".join(path.name for path in panel.beside) or "unknown: no other split lies beside"
    lines.append(f"leakage: {found}{beside}")
    inside = {row.frames for row in panel.rows}
    own = sum(row.reversed_frames in inside for row in panel.rows)
    lines.append(f"rows whose reversal is in the file itself: {own}")
    lines += _listed("leaking", [f"{x.row}: {x.kind} of {x.other}" for x in panel.leakage])
    robots = ", ".join(f"{name or '(none)'} {count}" for name, count in panel.robots.items())
    lines.append(f"robots: {robots}")
    if arguments.train:
        train = rows.read(arguments.train, bad_rows="skip")
        unseen = splits.unseen_robots(panel, train)
        lines += _listed("robots not in train", [f"{name}: {n} rows" for name, n in unseen.items()])
    if panel.classes:
        single = [name for name, count in panel.counts.items() if count <= 1]
        lines.append(f"{len(panel.classes)} classes, of which {len(single)} have at most one row")
        lines += _listed("classes", [f"{name}: {panel.counts[name]} rows" for name in single])
    groups = {row.group for row in panel.rows}
    if len(groups) > 1:
        split = splits.grouped(panel.rows)
        lines.append(f"{len(groups)} groups; split by them: {len(split.train)} + {len(split.val)}")
    if arguments.decode:
        rejected: list[Rejected] = []
        good = sum(1 for _ in media.each(panel, lambda r: media.load(panel, r), "skip", rejected))
        lines.append(f"{good} rows decoded")
        lines += _listed("undecodable", [f"{r.where}: {r.cause}" for r in rejected])
    return lines


def _listed(what: str, lines: list[str]) -> list[str]:
    if not lines:
        return []
    more = [f"  and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    return [f"{len(lines)} {what}:", *(f"  {line}" for line in lines[:_SHOWN]), *more]


def _world(arguments: Any) -> list[str]:
    sizes = {"clips": arguments.clips, "unseen": arguments.unseen}
    paths = world.write(arguments.out, arguments.pairs, arguments.seed, **sizes)
    return [f"wrote {path}" for path in paths.values()]


def _dataset(arguments: Any) -> list[str]:
    from jaxlab.evals.lary import dataset

    panel = rows.read(arguments.csv, arguments.root, arguments.missing)
    left_out = _listed("left out, files missing", [f"{m.where}: {m.path}" for m in panel.missing])
    return [*left_out, f"wrote {len(panel.rows)} rows to {dataset.write(panel, arguments.out)}"]


if __name__ == "__main__":
    main()
