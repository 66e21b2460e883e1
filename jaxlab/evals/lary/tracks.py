"""The tracks of LARYBench: columns of their files, folders of their data, dimensions of actions.

Columns, folders, dimensions and constants are those of the released code and files (revision
2092d20); LIBERO has no path in that code, only a file.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

_POSE = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
_PAIR = ("src_img", "tgt_img", "action")
_STATES = ("src_img", "src_state", "tgt_img", "tgt_state", "action")
_CLIP = ("video_path", "action", "sample_indices")
_ROBOT = ("dataset", "robot_type", "perspective", *_PAIR)

# Component of an action -> the group under which its error is reported.
_GROUPS = {
    "position": ("x", "y", "z"),
    "orientation": ("roll", "pitch", "yaw", "qx", "qy", "qz", "qw"),
    "gripper": ("gripper", "g"),
}


@dataclass(frozen=True)
class Track:
    """One track.

    Attributes:
        kind: "label": the action is a class; "chunk": it is a file of so many steps of an action.
        columns: of its CSV, besides `la_path`.
        folder: of its data below the root; {split} is where it differs.
        where: a column, and an expression found in its cells; tells apart tracks of equal columns.
        steps: rows of a chunk whose file name does not say.
        dims: components of one step.
        shipped: mean and standard deviation of an absolute action that the release has in its code.
    """

    kind: Literal["label", "chunk"]
    columns: tuple[str, ...]
    folder: str
    where: tuple[str, str] | None = None
    steps: int = 0
    dims: tuple[str, ...] = ()
    shipped: tuple[tuple[float, ...], tuple[float, ...]] | None = None

    @property
    def groups(self) -> dict[str, list[int]]:
        """Numbers of the components of position, orientation and gripper; absent ones left out."""
        names = [name.rpartition("_")[2] for name in self.dims]
        found = {
            group: [i for i, name in enumerate(names) if name in members]
            for group, members in _GROUPS.items()
        }
        return {group: indices for group, indices in found.items() if indices}

    @property
    def files(self) -> tuple[str, ...]:
        """Columns that name files of the data, states left out: no probe reads them."""
        own = ("src_img", "tgt_img", "video_path", *(("action",) if self.kind == "chunk" else ()))
        return tuple(name for name in own if name in self.columns)


TRACKS = {
    "calvin": Track(
        "chunk",
        ("dataset", "type", "perspective", *_STATES),
        "regression/calvin/{split}_stride5",
        where=("dataset", "^calvin"),
        steps=5,
        dims=_POSE,
        shipped=(
            (0.03993005, -0.1113833, 0.50033228, 1.04580053, -0.08165425, 1.58390577, -0.08441296),
            (0.14403107, 0.09919957, 0.05518382, 2.89455128, 0.13053949, 0.57474015, 0.99643086),
        ),
    ),
    "vlabench": Track(
        "chunk",
        ("dataset", "type", "perspective", *_STATES),
        "regression/vlabench",
        where=("dataset", "^vlabench"),
        steps=5,
        dims=_POSE,
        shipped=(
            (0.02959172, 0.39965126, 0.25788001, 1.0136418, -0.38189239, -0.13961033, 0.54842541),
            (0.15966601, 0.13813421, 0.1362726, 2.70449661, 0.63210694, 1.72885403, 0.49764945),
        ),
    ),
    "agibotbeta": Track(
        "chunk",
        ("dataset", "task_id", "episode_id", "perspective", "robot_type", *_PAIR),
        "regression/agibot_45",
        steps=45,
        dims=(
            *(f"{side}_{axis}" for side in "lr" for axis in "xyz"),
            *(f"{side}_q{axis}" for side in "lr" for axis in "xyzw"),
            *("r_g", "l_g"),
        ),
    ),
    # jaxlab.evals.lary.world: the columns of RoboCOIN, LIBERO and the video sets.
    "synthetic": Track(
        "chunk",
        _ROBOT,
        "regression/synthetic_5",
        where=("dataset", "^synthetic"),
        steps=5,
        dims=("x", "y", "gripper"),
    ),
    "robocoin": Track(
        "chunk",
        _ROBOT,
        "regression/robocoin_10",
        steps=10,
        # The released actions are of 12 numbers: hands are masked.
        dims=tuple(
            f"{side}_{name}" for side in "lr" for name in ("x", "y", "z", "roll", "pitch", "yaw")
        ),
    ),
    "synthetic_pairs": Track(
        "label", _PAIR, "classification/synthetic", where=("src_img", "^synthetic")
    ),
    "libero": Track("label", _PAIR, "classification/LIBERO"),
    "synthetic_clips": Track("label", _CLIP, "classification", where=("video_path", "^synthetic")),
    "robot_1st": Track("label", _CLIP, "classification", where=("video_path", "agibot")),
    "human_1st": Track("label", _CLIP, "classification"),
}


def of(columns: Sequence[str], cells: dict[str, str] | None) -> str:
    """The name of the track whose columns these are.

    Args:
        columns: of the file's first line.
        cells: its first row, which tells apart tracks of equal columns.

    Raises:
        ValueError: a column of the track that is nearest is missing; or no track has such a row.
    """
    given = set(columns) - {"la_path"}
    distance = {name: len(given ^ set(track.columns)) for name, track in TRACKS.items()}
    nearest = [name for name in TRACKS if distance[name] == min(distance.values())]
    absent = [column for column in TRACKS[nearest[0]].columns if column not in given]
    if absent:
        raise ValueError(
            f"no column {', '.join(absent)}, which a file of track {nearest[0]} has; "
            f"there are {', '.join(columns) or 'none'}"
        )
    found = next((name for name in nearest if belongs(name, cells or {})), None)
    if found is None:
        rules = (TRACKS[name].where for name in nearest)
        known = ", ".join(f"{rule[0]} {rule[1]!r}" for rule in rules if rule)
        raise ValueError(f"rows of these columns are of tracks with {known}; the first is neither")
    return found


def belongs(track: str, cells: dict[str, str]) -> bool:
    """Whether a row is of a track, as far as its cells tell."""
    where = TRACKS[track].where
    return where is None or bool(re.search(where[1], cells.get(where[0], ""), re.IGNORECASE))
