"""The synthetic world, its files, and datasets of them."""

import zlib

import numpy as np
import pytest

from jaxlab.evals.lary import media, rows, world


def read(folder, name):
    return rows.read(folder / f"{name}.csv", folder)


def test_the_world_has_the_release_s_layout(folder):
    sizes = {
        "synthetic_metadata_seen_train": ("synthetic", 12, 0),
        "synthetic_metadata_seen_val": ("synthetic", 4, 0),
        "synthetic_metadata_unseen": ("synthetic", 3, 0),
        # Each pair also backwards: 2 of 8 are for validation, and other 2 of their reversals.
        "synthetic_pairs_metadata_train": ("synthetic_pairs", 24, 8),
        "synthetic_pairs_metadata_val": ("synthetic_pairs", 8, 8),
        "synthetic_clips_metadata_train": ("synthetic_clips", 3, 0),
        "synthetic_clips_metadata_val": ("synthetic_clips", 1, 0),
    }
    assert sizes.keys() == {path.stem for path in folder.glob("*.csv")}
    for name, (track, size, leaks) in sizes.items():
        panel = read(folder, name)
        assert (panel.track, len(panel.rows), len(panel.leakage)) == (track, size, leaks)
        assert {leak.kind for leak in panel.leakage} <= {"reversal"}
    train = read(folder, "synthetic_pairs_metadata_train")
    backwards = {row.frames: row.action for row in train.rows}
    opposite = {"Left": "Right", "Up": "Down", "Open": "Close", "Stay": "Stay", "Keep": "Keep"}
    opposite |= {value: key for key, value in opposite.items()}
    both = [row for row in train.rows if row.reversed_frames in backwards]
    assert both
    for row in both:
        parts = [opposite[part] for part in row.action.split("_")]
        assert backwards[row.reversed_frames] == "_".join(parts)
    assert read(folder, "synthetic_metadata_unseen").robots == {"synthetic_c": 3}
    assert read(folder, "synthetic_metadata_seen_train").robots.keys() <= set(world.SEEN)


def test_a_larger_world_holds_the_smaller_one(folder, tmp_path):
    world.write(tmp_path, 9)
    small, large = (
        sorted((row.src_img, row.action) for row in read(root, f"synthetic{kind}").rows)
        for kind in ("_pairs_metadata_train",)
        for root in (tmp_path, folder)
    )
    assert set(small) < set(large)
    path = "regression/synthetic_5"
    for one in sorted((tmp_path / path).rglob("*.*")):
        assert one.read_bytes() == (folder / path / one.relative_to(tmp_path / path)).read_bytes()
    # Pixels are pinned: a change of them is a change of every number measured on the world.
    pixels = world.episode(0, 1).pairs()
    assert (pixels.shape, zlib.crc32(pixels.tobytes())) == ((8, 2, 32, 32, 3), 1459334113)
    with pytest.raises(ValueError, match="pairs >= 1"):
        world.write(tmp_path, 0)


def test_the_source_tells_nothing_of_the_move():
    assert len(world.CLASSES) == 27
    episodes = [world.episode(5, number) for number in range(400)]
    moves = np.concatenate([one.moves for one in episodes])
    start = np.concatenate([one.start for one in episodes])
    counts = np.unique(moves @ [9, 3, 1], return_counts=True)[1]
    # 3200 draws of 27 classes: each within 4.5 standard deviations of 118.5.
    assert len(counts) == 27
    assert abs(counts - 3200 / 27).max() < 4.5 * (3200 / 27) ** 0.5
    # Correlations of independent numbers: 1 / sqrt(3200) is 0.018.
    across = np.corrcoef(np.concatenate([moves, start], 1).T)[:3, 3:]
    assert abs(across).max() < 4.5 * 3200**-0.5


def test_actions_are_the_path_in_the_robot_s_units():
    one = world.episode(0, 0)
    path = one.path(5)
    # Minimum jerk: half way at half time, and 10/64 - 15/256 + 6/1024 at a quarter.
    assert path[:, 0] == pytest.approx(one.start)
    assert path[:, 4] == pytest.approx(one.end)
    part = (path - path[:, :1])[:, 1:4] / np.where(one.moves == 0, 1, one.end - one.start)[:, None]
    quarter = 10 / 64 - 15 / 256 + 6 / 1024
    still = np.broadcast_to((one.moves == 0)[:, None], part.shape)
    expected = np.array([quarter, 0.5, 1 - quarter])[None, :, None]
    assert np.where(still, expected, part) == pytest.approx(np.broadcast_to(expected, part.shape))
    factor, offset, _ = world.ROBOTS[one.robot]
    assert one.actions() == pytest.approx((path * factor + offset).astype(np.float32))


def test_a_dataset_of_a_user_s_copy(folder, tmp_path):
    pytest.importorskip("tensorflow_datasets")
    from jaxlab.evals.lary import dataset

    panel = read(folder, "synthetic_metadata_seen_val")
    place = dataset.write(panel, tmp_path)
    import tensorflow_datasets as tfds

    rows_of = tfds.builder_from_directory(str(place)).as_data_source("seen_val")
    assert [one["id"].decode() for one in rows_of] == [row.id for row in panel.rows]
    source, target = media.pair(panel, panel.rows[2])
    assert np.array_equal(rows_of[2]["src_img"], source)
    assert np.array_equal(rows_of[2]["tgt_img"], target)
    assert np.array_equal(rows_of[2]["action"], media.actions(panel, panel.rows[2]))
    with pytest.raises(FileExistsError, match="is there already"):
        dataset.write(panel, tmp_path)
    with pytest.raises(ValueError, match="read the rows with root"):
        dataset.write(rows.read(folder / "synthetic_metadata_seen_val.csv"), tmp_path)
