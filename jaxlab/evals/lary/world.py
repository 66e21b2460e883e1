"""A synthetic world in the layout of LARYBench: what its probes measure, on a laptop.

A gripper with two fingers moves over a textured background with a distractor that stays: 9
directions x {open, keep, close} = 27 classes. Where it starts and how far it is open say nothing of
the class, so that a probe that sees the source image alone stays at chance. Light differs from
image to image. Actions are poses on a minimum-jerk path (Flash and Hogan 1985), in the units of one
of two robots; a third is for the file of unseen robots.

`write` makes the files; `episode` is the world itself, a pure function of a seed and a number, so
that a larger world holds the smaller one.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxlab.evals.lary.media import needs

SIZE = 32  # pixels
PAIRS = 8  # of an episode
STEPS = 5
CLIP = 17  # frames of a video, of which 9 are sampled
_STRIDE = 5

# Robot -> factor and offset from the world's units to those of its actions, and its colour.
ROBOTS = {
    "synthetic_a": (1.0, 0.0, (0.85, 0.2, 0.2)),
    "synthetic_b": (25.0, -10.0, (0.2, 0.3, 0.9)),
    "synthetic_c": (0.1, 1.0, (0.2, 0.8, 0.3)),
}
SEEN = ("synthetic_a", "synthetic_b")

_HORIZONTAL = {-1: "Left", 0: "", 1: "Right"}
_VERTICAL = {-1: "Up", 0: "", 1: "Down"}
_FINGERS = {-1: "Close", 0: "Keep", 1: "Open"}
MOVES = tuple((x, y, g) for x in (-1, 0, 1) for y in (-1, 0, 1) for g in (-1, 0, 1))


def name(move: Sequence[int]) -> str:
    """The class of a move, for example "Right_Up_Open"."""
    parts = (_HORIZONTAL[move[0]], _VERTICAL[move[1]])
    return "_".join([*filter(None, parts)] or ["Stay"]) + "_" + _FINGERS[move[2]]


CLASSES = tuple(sorted(map(name, MOVES)))


@dataclass(frozen=True)
class Episode:
    """Pairs before one background.

    Attributes:
        robot: a key of `ROBOTS`.
        moves: int[P, 3], signs of the changes of x, y and opening.
        start: float[P, 3], pose before: x, y, opening, in [0, 1].
        end: float[P, 3], pose after.
        texture: float[H, W, 3] in [0, 1].
        distractor: x, y, radius, and three of colour.
        light: float[P, 2, 2, 3], factor and offset of each image's channels.
    """

    robot: str
    moves: np.ndarray
    start: np.ndarray
    end: np.ndarray
    texture: np.ndarray
    distractor: np.ndarray
    light: np.ndarray

    def pairs(self) -> np.ndarray:
        """The two images of each pair, uint8[P, 2, H, W, 3]."""
        poses = np.stack([self.start, self.end], 1)
        return _render(self, poses, self.light[:, :, 0], self.light[:, :, 1])

    def clip(self, pair: int, frames: int = CLIP) -> np.ndarray:
        """The frames of a pair's motion, uint8[frames, H, W, 3]; the light changes steadily."""
        poses = self.path(frames)[pair]
        part = np.linspace(0, 1, frames)[:, None, None]
        light = (1 - part) * self.light[pair, 0] + part * self.light[pair, 1]
        return _render(self, poses[None], light[None, :, 0], light[None, :, 1])[0]

    def path(self, steps: int = STEPS) -> np.ndarray:
        """Poses of the pairs on the way, float64[P, steps, 3], both ends at rest."""
        t = np.linspace(0, 1, steps)[:, None]
        done = t**3 * (10 - 15 * t + 6 * t**2)
        return self.start[:, None] + done * (self.end - self.start)[:, None]

    def actions(self) -> np.ndarray:
        """The path in the robot's units, float32[P, STEPS, 3]."""
        factor, offset, _ = ROBOTS[self.robot]
        return (self.path() * factor + offset).astype(np.float32)


def episode(seed: int, number: int, robots: Sequence[str] = SEEN) -> Episode:
    """Episode `number` of the world of a seed, with `PAIRS` pairs."""
    rng = np.random.Generator(np.random.Philox(key=np.array([seed, number], np.uint64)))
    robot = robots[int(rng.integers(len(robots)))]
    coarse = rng.uniform(0.2, 0.8, (5, 5, 3))
    texture = _enlarge(coarse, SIZE) + rng.normal(0, 0.05, (SIZE, SIZE, 3))
    distractor = np.concatenate([rng.uniform(0.1, 0.9, 2), rng.uniform(0.06, 0.12, 1)])
    distractor = np.concatenate([distractor, rng.uniform(0, 1, 3)])
    moves = np.array(MOVES)[rng.integers(len(MOVES), size=PAIRS)]
    start = rng.uniform(0.35, 0.65, (PAIRS, 3))
    far = np.array([0.15, 0.15, 0.25]), np.array([0.25, 0.25, 0.35])
    end = start + moves * rng.uniform(*far, (PAIRS, 3))
    light = rng.normal((1.0, 0.0), 0.08, (PAIRS, 2, 3, 2)).swapaxes(2, 3)
    return Episode(robot, moves, start, end, texture.clip(0, 1), distractor, light)


def write(
    out: str | Path,
    pairs: int,
    seed: int = 0,
    *,
    clips: int = 0,
    unseen: int = 0,
    reversals: bool = True,
) -> dict[str, Path]:
    """A world of so many pairs, as files that `rows.read(csv, root=out)` reads.

    Every fourth pair is for validation, row by row as in the official splits.

    Args:
        out: a folder; files of the same names are replaced.
        pairs: with images, class and chunk of actions.
        seed: of the world.
        clips: of them, the first ones, are written as lossless videos too; PyAV is needed.
        unseen: pairs of a robot that the others do not have.
        reversals: whether the file of classes also has each pair backwards in time, under its
            opposite class and a split of its own, as LIBERO's has.

    Returns:
        Name of each CSV without suffix -> its path.

    Raises:
        ValueError: a number is out of range.
        ModuleNotFoundError: Pillow or PyAV is missing.
    """
    if pairs < 1 or not 0 <= clips <= pairs or unseen < 0 or seed < 0:
        raise ValueError(
            f"pairs >= 1, 0 <= clips <= pairs, unseen >= 0 and seed >= 0 are needed; got "
            f"{pairs}, {clips}, {unseen}, {seed}"
        )
    out = Path(out)
    tables = _Tables(out)
    for number in range(-(-pairs // PAIRS)):
        one = episode(seed, number)
        _write_episode(out, one, number, min(PAIRS, pairs - number * PAIRS), tables, reversals)
        for k in range(min(PAIRS, clips - number * PAIRS)):
            _write_clip(out, one, number, k, tables)
    for number in range(-(-unseen // PAIRS)):
        # Beyond all episodes of the seen robots.
        one = episode(seed, number + 2**32, tuple(ROBOTS.keys() - set(SEEN)))
        _write_episode(out, one, number, min(PAIRS, unseen - number * PAIRS), tables, None)
    return tables.close()


class _Tables:
    """The CSV files of a world, opened as they are needed."""

    COLUMNS = {  # noqa: RUF012
        "synthetic": ("dataset", "robot_type", "perspective", "src_img", "tgt_img", "action"),
        "synthetic_pairs": ("src_img", "tgt_img", "action"),
        "synthetic_clips": ("video_path", "action", "sample_indices"),
    }

    def __init__(self, out: Path):
        self._out = out
        self._rows: dict[tuple[str, str], list[tuple[str, ...]]] = {}

    def add(self, track: str, split: str, *cells: str) -> None:
        self._rows.setdefault((track, split), []).append(cells)

    def close(self) -> dict[str, Path]:
        paths = {}
        for (track, split), rows in self._rows.items():
            path = self._out / f"{track}_metadata_{split}.csv"
            with path.open("w", newline="") as file:
                lines = csv.writer(file, lineterminator="\n")
                lines.writerow(self.COLUMNS[track])
                lines.writerows(rows)
            paths[path.stem] = path
        return paths


def _write_episode(
    out: Path, one: Episode, number: int, count: int, tables: _Tables, reversals: bool | None
) -> None:
    """Images and chunks of an episode's first `count` pairs; no classes if `reversals` is None."""
    images, actions = one.pairs(), one.actions()
    folder = out / "regression" / "synthetic_5" / one.robot
    for part in ("images", "actions"):
        (folder / part / f"ep_{number}").mkdir(parents=True, exist_ok=True)
    for k in range(count):
        frames = [k * 2 * _STRIDE, k * 2 * _STRIDE + _STRIDE]
        shown = [f"{one.robot}/images/ep_{number}/frame_{frame:06d}.png" for frame in frames]
        chunk = f"ep_{number}/action_{frames[0]:06d}to{frames[0] + STEPS - 1:06d}.npy"
        for image, path in zip(images[k], shown, strict=True):
            _png(folder.parent / path, image)
        np.save(folder / "actions" / chunk, actions[k])
        side = "val" if k % 4 == 3 else "train"
        cells = (f"{one.robot}_reach", one.robot, "3rd", *shown, f"{one.robot}/actions/{chunk}")
        tables.add("synthetic", "unseen" if reversals is None else f"seen_{side}", *cells)
        if reversals is None:
            continue
        segment = f"synthetic_clean/reach_demo/demo_{number}/action_{k:02d}"
        place = out / "classification" / "synthetic" / segment
        place.mkdir(parents=True, exist_ok=True)
        ends = [f"{segment}/action_start.png", f"{segment}/action_end.png"]
        for image, path in zip(images[k], ends, strict=True):
            _png(place / Path(path).name, image)
        tables.add("synthetic_pairs", side, *ends, name(one.moves[k]))
        if reversals:
            other = "val" if k % 4 == 1 else "train"
            tables.add("synthetic_pairs", other, *ends[::-1], name(-one.moves[k]))


def _write_clip(out: Path, one: Episode, number: int, k: int, tables: _Tables) -> None:
    av = needs("av", "PyAV")
    path = f"synthetic/ep_{number}/clip_{k:02d}.mkv"
    place = out / "classification" / path
    place.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(place), "w") as file:
        stream = file.add_stream("ffv1", rate=10)
        stream.width = stream.height = SIZE
        stream.pix_fmt = "bgr0"
        for image in one.clip(k):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        file.mux(stream.encode())
    indices = ",".join(map(str, range(0, CLIP, 2)))
    side = "val" if k % 4 == 3 else "train"
    tables.add("synthetic_clips", side, path, name(one.moves[k]), indices)


def _png(path: Path, image: np.ndarray) -> None:
    needs("PIL.Image", "Pillow").fromarray(image).save(path, compress_level=1)


def _render(one: Episode, poses: np.ndarray, factor: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Images of poses [P, F, 3] under light [P, F, 3] each, uint8[P, F, H, W, 3]."""
    y, x = (np.mgrid[:SIZE, :SIZE] + 0.5) / SIZE
    ground = one.texture.copy()
    dx, dy, radius = one.distractor[:3]
    ground[(x - dx) ** 2 + (y - dy) ** 2 < radius**2] = one.distractor[3:]
    px, py, opening = (poses[..., i, None, None] for i in range(3))
    half = 0.05 + 0.12 * opening
    palm = (abs(x - px) < half + 0.04) & (abs(y - py + 0.1) < 0.04)
    fingers = (abs(abs(x - px) - half) < 0.035) & (abs(y - py) < 0.1)
    images = np.where((palm | fingers)[..., None], np.array(ROBOTS[one.robot][2]), ground)
    images = images * factor[:, :, None, None] + offset[:, :, None, None]
    return np.round(images.clip(0, 1) * 255).astype(np.uint8)


def _enlarge(coarse: np.ndarray, size: int) -> np.ndarray:
    """A coarse grid [n, n, 3] interpolated to [size, size, 3]."""
    at = np.linspace(0, len(coarse) - 1, size)
    low = np.minimum(at.astype(int), len(coarse) - 2)
    part = at - low
    rows = coarse[low] * (1 - part)[:, None, None] + coarse[low + 1] * part[:, None, None]
    columns = rows[:, low] * (1 - part)[None, :, None] + rows[:, low + 1] * part[None, :, None]
    return columns
