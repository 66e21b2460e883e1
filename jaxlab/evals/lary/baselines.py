"""Encoders without training, and features of image pairs in the release's files.

They are the ends of a scale: "patches" are the pixels themselves, "random" is a fixed random
network on patches. What a probe gets from them is what the probe can do by itself.
"""

import csv
import dataclasses
from pathlib import Path
from typing import Literal

import numpy as np

from jaxlab.evals.lary import media, tracks
from jaxlab.evals.lary.rows import Panel

Encoder = Literal["patches", "random"]
PATCH = 8
WIDTH = 64  # of the random network


def encode(images: np.ndarray, encoder: Encoder, seed: int = 0) -> np.ndarray:
    """Tokens float32[F, N, D] of images uint8[F, H, W, 3], N patches of 8 x 8 pixels.

    D is 192 for "patches", whose values are in [-1, 1], and 64 for "random": two random layers.

    Raises:
        ValueError: the encoder is none, or patches do not fit the image.
    """
    frames, height, width, _ = images.shape
    if height % PATCH or width % PATCH:
        raise ValueError(f"images of {height} x {width} are not made of patches of {PATCH}")
    x = images.reshape(frames, height // PATCH, PATCH, width // PATCH, PATCH, 3)
    x = x.swapaxes(2, 3).reshape(frames, -1, PATCH * PATCH * 3).astype(np.float32) / 127.5 - 1
    if encoder == "patches":
        return x
    if encoder != "random":
        raise ValueError(f'encoder must be "patches" or "random", got {encoder!r}')
    rng = np.random.Generator(np.random.Philox(key=np.array([seed, 1], np.uint64)))
    for size in (WIDTH, WIDTH):
        weights = rng.normal(0, (2 / x.shape[-1]) ** 0.5, (x.shape[-1], size))
        x = np.maximum(x @ weights.astype(np.float32), 0)
    return x


def extract(panel: Panel, out: str | Path, encoder: Encoder, seed: int = 0) -> Path:
    """Write features of a panel's pairs, and the CSV that names them, as the release does.

    Files that are there already stay, so that an extraction that was killed goes on.

    Args:
        panel: read with a root.
        out: gets SPLIT_la_TRACK[_STRIDE]_ENCODER[-SEED].csv, and folders of .npz files.
        encoder: see `encode`.
        seed: of the random network.

    Returns:
        The CSV.
    """
    out = Path(out)
    track = tracks.TRACKS[panel.track]
    stride = str(panel.rows[0].steps) if track.kind == "chunk" else ""
    # Files that are there stay: those of another seed, or another row, must not be taken for these.
    model = f"{encoder}-{seed}" if seed and encoder == "random" else encoder
    parts = [panel.track, f"stride_{stride}", panel.split, model] if stride else None
    # The release has no folder of the split here, so that one split would overwrite the other.
    folder = out.joinpath(*(parts or [panel.track, panel.split, model]))
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for row in panel.rows:
        # Numbered by line, the first row 0: rows left out of a panel do not shift the others.
        number = int(row.id.rpartition(":")[2]) - 2
        path = folder / f"latent_action_{number:08d}.npz"
        if not path.exists():
            tokens = encode(media.pair(panel, row), encoder, seed)
            part = path.with_suffix(".part")
            with part.open("wb") as file:
                np.savez(file, tokens=tokens, indices=np.zeros(0, np.int64))
            part.rename(path)
        cells = {**dataclasses.asdict(row), "la_path": str(path.relative_to(out))}
        lines.append([cells[name] for name in (*track.columns, "la_path")])
    name = "_".join(filter(None, (panel.split, "la", panel.track, stride, model)))
    table = out / f"{name}.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([(*track.columns, "la_path"), *lines])
    return table
