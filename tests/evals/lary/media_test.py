"""Images, clips, chunks and features of rows, and what is wrong with damaged ones."""

import contextlib
import itertools
import shutil
import types

import numpy as np
import pytest

from jaxlab.evals.lary import media, rows, world


def read(folder, name):
    return rows.read(folder / f"{name}.csv", folder)


@pytest.fixture
def panel(folder, tmp_path):
    """The validation pairs, whose files may be damaged."""
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    return read(copy, "synthetic_metadata_seen_val")


def test_images_and_clips_are_the_world_s(folder):
    episode = world.episode(0, 0)
    panel = read(folder, "synthetic_pairs_metadata_train")
    assert np.array_equal(media.pair(panel, panel.rows[0]), episode.pairs()[0])
    clips = read(folder, "synthetic_clips_metadata_train")
    row = clips.rows[2]
    path = clips.path(row, "video_path")
    frames = episode.clip(2)
    assert np.array_equal(media.clip(path, row.sample_indices), frames[::2])
    assert np.array_equal(media.clip(path, (5, 0, 5)), frames[[5, 0, 5]])
    assert np.array_equal(media.load(clips, row)["frames"], frames[::2])


def test_a_clip_that_is_too_short_is_an_error_or_ends_with_its_last_frame(folder):
    clips = read(folder, "synthetic_clips_metadata_val")
    path = clips.path(clips.rows[0], "video_path")
    with pytest.raises(ValueError, match=r"clip_03.mkv: frame 17 is asked for, but there are 17"):
        media.clip(path, (0, 17, 40))
    last = world.episode(0, 0).clip(3)[16]
    assert np.array_equal(media.clip(path, (0, 40), past_end="last")[1], last)


def test_damaged_images_and_videos_are_named(folder, panel, tmp_path):
    path = panel.path(panel.rows[0], "tgt_img")
    whole = path.read_bytes()
    for damaged in (b"", b"no image", whole[: len(whole) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=f"{path}: not an image"):
            media.pair(panel, panel.rows[0])
    path.unlink()
    with pytest.raises(FileNotFoundError):
        media.image(path)
    clips = read(folder, "synthetic_clips_metadata_val")
    video = clips.path(clips.rows[0], "video_path").read_bytes()
    for damaged in (b"", b"no video", video[:400], video[: len(video) // 2]):
        (tmp_path / "x.mkv").write_bytes(damaged)
        with pytest.raises(
            ValueError, match=r"x.mkv: (decoding ended|frame \d+ is asked|the video)"
        ):
            media.clip(tmp_path / "x.mkv", range(17))


def test_damage_in_the_middle_of_a_video_is_not_its_end(folder, monkeypatch):
    import av

    clips = read(folder, "synthetic_clips_metadata_val")
    path, opened = clips.path(clips.rows[0], "video_path"), av.open

    @contextlib.contextmanager
    def damaged(name):
        def decode(video):
            yield from itertools.islice(file.decode(video=video), 5)
            raise av.error.InvalidDataError(1, "invalid data")

        with opened(name) as file:
            yield types.SimpleNamespace(decode=decode)

    monkeypatch.setattr(av, "open", damaged)
    with pytest.raises(ValueError, match=r"clip_03.mkv: decoding ended after 5 frames"):
        media.clip(path, range(17), past_end="last")


def test_images_of_a_pair_have_one_size(panel):
    from PIL import Image

    path = panel.path(panel.rows[0], "tgt_img")
    Image.new("L", (8, 4)).save(path)
    with pytest.raises(ValueError, match=r"size \(4, 8\), but the source image's is \(32, 32\)"):
        media.pair(panel, panel.rows[0])


def test_chunks_by_hand(panel):
    row = panel.rows[0]
    path = panel.path(row, "action")
    # A flat file, as in the release, is steps of components.
    np.save(path, np.arange(15))
    assert media.actions(panel, row).tolist() == np.arange(15.0).reshape(5, 3).tolist()
    assert media.actions(panel, row, "relative").tolist() == [[12.0, 12.0, 12.0]]
    with pytest.raises(ValueError, match='must be "absolute" or "relative"'):
        media.actions(panel, row, "delta")


def test_damaged_chunks_are_named(panel):
    row = panel.rows[1]
    path = panel.path(row, "action")
    nan = np.ones((5, 3))
    nan[2, 1] = np.nan
    for values, cause in (
        (np.ones(14), r"14 numbers of shape \(14,\), expected 5 steps of 3"),
        (nan, r"1 of 15 numbers are not finite, the first is nan at \[2, 1\]"),
        (np.array(["a"] * 15), "expected an array of numbers, got <U1"),
    ):
        np.save(path, values)
        with pytest.raises(ValueError, match=f"{path}: {cause}"):
            media.actions(panel, row)
    np.save(path, np.array([None] * 15), allow_pickle=True)
    with pytest.raises(ValueError, match=r"not an \.npy that can be read"):
        media.actions(panel, row)
    np.save(path, np.ones((5, 3)))
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"not an \.npy that can be read"):
        media.actions(panel, row)


def test_bad_rows_end_the_reading_or_are_counted(panel):
    np.save(panel.path(panel.rows[1], "action"), np.ones(3))
    with pytest.raises(ValueError, match=r"^synthetic_metadata_seen_val.csv:3: .*3 numbers"):
        list(media.each(panel, lambda row: media.actions(panel, row)))
    rejected = []
    good = list(media.each(panel, lambda row: media.actions(panel, row), "skip", rejected))
    assert [row.id for row, _ in good] == [row.id for row in panel.rows if row != panel.rows[1]]
    assert [bad.where for bad in rejected] == [panel.rows[1].id]
    with pytest.raises(ValueError, match="needs a list"):
        list(media.each(panel, lambda row: row, "skip"))


def test_features_are_those_of_the_release(tmp_path):
    path = tmp_path / "latent_action_00000000.npz"
    tokens = np.arange(6, dtype=np.float16).reshape(2, 3)
    np.savez_compressed(path, tokens=tokens, indices=np.array([]))
    found = media.features(path)
    assert found.tokens.dtype == np.float32
    assert found.tokens.tolist() == tokens.tolist()
    assert found.indices.size == 0
    good = path.read_bytes()
    for arrays, cause in (
        ({"latent": tokens}, "no array tokens; there are latent"),
        ({"tokens": np.array([np.nan, 1])}, "1 of 2 numbers are not finite"),
        ({"tokens": np.zeros((0, 3))}, "tokens must be numbers"),
        ({"tokens": np.array([None])}, "not an .npz of features"),
    ):
        np.savez(path, **arrays)
        with pytest.raises(ValueError, match=f"{path}: .*{cause}|{path}: {cause}"):
            media.features(path)
    for damaged in (b"", b"PK", good[:100]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"not an \.npz of features"):
            media.features(path)
