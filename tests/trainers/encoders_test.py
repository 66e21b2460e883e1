"""Encoders: features extracted once, resumed, keyed; a panel from a HuggingFace directory."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab import config as config_lib
from jaxlab import evaluate
from jaxlab.evals import feature_store
from jaxlab.evals.feature_store import EncoderOptions
from jaxlab.evals.lary import media, rows
from jaxlab.interop import safetensors_io, vision
from jaxlab.interop.families import vjepa2
from jaxlab.json_file import CheckpointFormatError
from jaxlab.models.vision import Vision, patchify, shorter, unpatchify
from jaxlab.trainers import encoders, panel

CONFIG = {
    "model_type": "vjepa2",
    "crop_size": 32,
    "patch_size": 16,
    "hidden_size": 12,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "mlp_ratio": 1.0,
}
OWN = """
import numpy as np

def encoder():
    def prepare(frames):
        return frames.reshape(len(frames), 1, -1).astype(np.float32)
    def encode(batch):
        return batch[..., :3]
    return "mine", prepare, encode
"""


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A HuggingFace directory of V-JEPA 2 with random tensors of its names."""
    path = tmp_path_factory.mktemp("vjepa2")
    (path / "config.json").write_text(json.dumps(CONFIG))
    (path / "preprocessor_config.json").write_text('{"crop_size": 32}')
    config = vjepa2.config(CONFIG)
    example = jnp.zeros((1, 2, 16, 16, 3))
    shapes = jax.eval_shape(Vision(config).init, jax.random.key(0), example)["params"]
    rng, tensors = np.random.default_rng(0), {}
    for key_path, leaf in jax.tree_util.tree_flatten_with_path(shapes)[0]:
        part, _, kind = jax.tree_util.keystr(key_path, simple=True, separator="/").rpartition("/")
        name = vjepa2.TENSORS[part][0] + (".bias" if kind == "bias" else ".weight")
        layers = config.num_layers if part.startswith("layers") else 1
        shape = leaf.shape[1:] if part.startswith("layers") else leaf.shape
        shape = (12, 3, 2, 16, 16) if part == "patches" and kind == "kernel" else shape[::-1]
        for i in range(layers):
            tensors[name.format(i)] = rng.normal(0, 0.3, shape).astype(np.float32)
    about = {name: (value.dtype, value.shape) for name, value in tensors.items()}
    safetensors_io.write(path / "model.safetensors", about, tensors.values())
    return path


@pytest.fixture(scope="module")
def pairs(folder):
    return rows.read(folder / "synthetic_pairs_metadata_val.csv", folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from jaxlab.evals.lary import world

    out = tmp_path_factory.mktemp("world")
    world.write(out, 16)
    return out


def test_clips_and_single_frames(directory, pairs):
    frames = np.stack([media.pair(pairs, row) for row in pairs.rows[:2]])
    found = vision.load(directory)
    apply = jax.jit(Vision(found.config).apply)
    whole, apart = (
        encoders.load(EncoderOptions(str(directory), size=32, batch=2, apart=apart))
        for apart in (False, True)
    )
    assert whole.key != apart.key
    seen = np.stack([whole.prepare(one) for one in frames])
    expected = apply({"params": found.params}, seen)
    np.testing.assert_allclose(whole.encode(seen)[:, 0], expected, atol=1e-5)
    still = np.repeat(seen[:, 1:], 2, axis=1)
    expected = apply({"params": found.params}, still)
    np.testing.assert_allclose(apart.encode(seen)[:, 1], expected, atol=1e-5)
    assert apart.encode(seen).shape == (2, 2, 4, 12)
    # The processor: [-1, 1] after the mean and deviation of ImageNet.
    pixel = (frames[0, 0, 0, 0] / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(seen[0, 0, 0, 0], pixel, rtol=1e-5)
    config, params = shorter(found.config, found.params, 1)
    assert params["layers"]["up"]["kernel"].shape[0] == config.num_layers == 1
    with pytest.raises(ValueError, match="skip: from 0 to 1 layers, not 2"):
        shorter(found.config, found.params, 2)


def test_patches_there_and_back():
    images = jnp.arange(2 * 4 * 6 * 3.0).reshape(2, 4, 6, 3)
    patches, grid = patchify(images, 2)
    assert grid == (2, 3)
    assert patches[0, 1, 3:6].tolist() == images[0, 0, 3].tolist()
    np.testing.assert_array_equal(unpatchify(patches, 2, grid), images)


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"model_type": "bert"}, "model_type 'bert' is no vision encoder"),
        ({"hidden_act": "relu"}, "hidden_act 'relu' is not supported"),
        ({"patch_size": [16, 8]}, r"patch_size \[16, 8\] is not supported"),
        ({"hidden_size": 16}, "numbers, config.json asks for shape"),
        ({"num_hidden_layers": 3}, r"no tensor encoder.layer.2.mlp.fc2.bias"),
        ({"num_attention_heads": 5}, "heads: 5 do not divide width = 12"),
        ({"in_chans": 1}, "in_chans is 1: expected"),
    ],
)
def test_a_directory_that_does_not_fit(directory, tmp_path, changes, cause):
    for name in ("model.safetensors", "preprocessor_config.json"):
        (tmp_path / name).symlink_to(directory / name)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | changes))
    with pytest.raises(CheckpointFormatError, match=cause):
        vision.load(tmp_path)


def test_features_are_extracted_once_and_an_extraction_goes_on(pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(feature_store, "_NOTE_EVERY", 0.0)
    batches = []

    def encode(batch):
        batches.append(len(batch))
        if len(batches) == 3:
            raise KeyboardInterrupt
        return batch.astype(np.float64).mean((2, 3))[:, :, None]

    made = feature_store.Encoder("k", 2, np.dtype(np.float16), lambda x: x, encode)
    with pytest.raises(KeyboardInterrupt):
        feature_store.extract(pairs, made, tmp_path, "error", [])
    kept, found = feature_store.extract(pairs, made, tmp_path, "error", [])
    # Of 8 rows, 2 were noted before the third batch, and the next were on their way.
    assert len(kept) == len(pairs.rows) == 8
    assert batches == [2] * (3 + 3)
    expected = [media.pair(pairs, row).mean((1, 2))[:, None] for row in pairs.rows]
    np.testing.assert_array_equal(found, np.array(expected, np.float16))
    assert isinstance(found, np.memmap)
    feature_store.extract(pairs, made, tmp_path, "error", [])
    assert len(batches) == 6
    # Other weights, other features.
    other = dataclasses.replace(made, key="l")
    feature_store.extract(pairs, other, tmp_path, "error", [])
    assert len(batches) == 10


def test_a_bad_image_is_named_or_counted(folder, tmp_path):
    import shutil

    root = tmp_path / "world"
    shutil.copytree(folder, root)
    panel_ = rows.read(root / "synthetic_pairs_metadata_val.csv", root)
    panel_.path(panel_.rows[3], "src_img").write_bytes(b"no picture")
    made = feature_store.Encoder(
        "k", 4, np.dtype(np.float32), lambda x: x, lambda x: x[:, :, :1, 0]
    )
    with pytest.raises(
        ValueError, match=r"val.csv:5: .*not an image .*bad_rows=skip leaves it out"
    ):
        feature_store.extract(panel_, made, tmp_path / "a", "error", [])
    left_out = []
    kept, found = feature_store.extract(panel_, made, tmp_path / "a", "skip", left_out)
    assert kept == [0, 1, 2, 4, 5, 6, 7]
    assert len(found) == 7
    assert [one.where for one in left_out] == ["synthetic_pairs_metadata_val.csv:5"]


def test_a_bad_row_is_counted_once_by_a_run_that_goes_on(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(feature_store, "_NOTE_EVERY", 0.0)
    panel_ = rows.read(folder / "synthetic_pairs_metadata_val.csv", folder)
    reads = []

    def load(i):
        if i == 3:
            raise ValueError("bad")
        return np.ones((1, 2), np.float32)

    def encode(batch):
        reads.append(len(batch))
        # The first batch is noted when the second, which has the bad row, was encoded.
        if len(reads) == 3:
            raise KeyboardInterrupt
        return batch

    made = feature_store.Encoder("k", 2, np.dtype(np.float32), lambda x: x, encode)
    place, left_out = tmp_path / "a", []
    with pytest.raises(KeyboardInterrupt):
        feature_store.collect(place, panel_.rows, load, made, "skip", [])
    assert json.loads((place / "read.json").read_text())["next"] == 2
    kept, _ = feature_store.collect(place, panel_.rows, load, made, "skip", left_out)
    assert kept == [0, 1, 2, 4, 5, 6, 7]
    assert [one.where for one in left_out] == ["synthetic_pairs_metadata_val.csv:5"]


def test_bad_paths(tmp_path):
    for path, cause in (
        (None, "encoder.path is not given"),
        (str(tmp_path / "no"), "is no directory"),
        (str(tmp_path / "no.py"), "no such file"),
    ):
        with pytest.raises(config_lib.ConfigError, match=cause):
            encoders.load(EncoderOptions(path))
    (tmp_path / "empty.py").write_text("x = 1")
    with pytest.raises(config_lib.ConfigError, match=r"has no function encoder\(\)"):
        encoders.load(EncoderOptions(str(tmp_path / "empty.py")))


def test_options_that_an_encoder_has_no_use_for_are_refused(directory, tmp_path):
    (tmp_path / "mine.py").write_text(OWN)
    for options, cause in (
        (EncoderOptions(str(tmp_path / "mine.py"), skip=1), "skip and apart are of pretrained"),
        (EncoderOptions(str(tmp_path / "mine.py"), apart=True), "is a file of your own"),
        (EncoderOptions(str(tmp_path / "mine.py"), stage="before"), "stage: before is of latent"),
        (EncoderOptions(str(directory), stage="before"), "stage: before is of latent action"),
    ):
        with pytest.raises(config_lib.ConfigError, match=cause):
            encoders.load(options)


def test_what_each_control_sees(config, directory, folder, tmp_path):
    tiny = config("eval_lary", "tiny")
    tiny["encoder"]["path"] = str(directory)
    tiny["data"]["root"] = str(folder)
    for track, stem, sides in (
        ("labels", "synthetic_pairs_metadata", ("train", "val")),
        ("chunks", "synthetic_metadata", ("seen_train", "seen_val")),
    ):
        names = zip(("train", "val"), sides, strict=True)
        tiny["tracks"][track] = {key: str(folder / f"{stem}_{side}.csv") for key, side in names}
    found = dict(panel.probes(evaluate.build(tiny), tmp_path))

    def seen(name):
        data = found[name].data
        return data.input, data.pca, data.split, data.mode, data.encoder.apart

    plain = ("both", 0, "official", "absolute", False)
    changed = {
        "source": ("source", *plain[1:4], True),
        "target": ("target", *plain[1:4], True),
        "difference": ("difference", *plain[1:4], True),
        "matched": ("both", 8, *plain[2:]),
        "grouped": ("both", 0, "grouped", *plain[3:]),
        "relative": ("both", 0, "official", "relative", False),
    }
    assert {name: seen(name) for name in found} == {
        "labels": plain,
        **{f"labels_{name}": changed[name] for name in changed if name != "relative"},
        "chunks": plain,
        **{f"chunks_{name}": changed[name] for name in changed if name != "grouped"},
    }


def test_a_track_s_files_are_its_own():
    from configs import eval_lary

    made = eval_lary.get_config()
    made.tracks.calvin.train = "x.csv"
    assert [name for name, files in made.tracks.items() if files.train] == ["calvin"]


def test_a_panel_of_an_encoder_of_one_s_own(config, folder, tmp_path):
    (tmp_path / "mine.py").write_text(OWN)
    tiny = config("eval_lary", "tiny")
    tiny["encoder"]["path"] = str(tmp_path / "mine.py")
    tiny["data"] |= {"root": str(folder), "inner": 0.0}
    tiny["matched"] = 2
    tiny["controls"] = ("source", "matched")
    tiny["labels"]["model"] = {"name": "ridge"}
    tiny["labels"]["train"] |= {"steps": 1}
    tiny["labels"]["plots"] = False
    tiny["tracks"]["labels"] = {
        side: str(folder / f"synthetic_pairs_metadata_{side}.csv") for side in ("train", "val")
    }
    built = evaluate.build(tiny)
    names = [name for name, _ in panel.probes(built, tmp_path / "run")]
    assert names == ["labels", "labels_source", "labels_matched"]
    files = panel.run(built, tmp_path / "run")
    assert [path.name for path in files] == ["lary.md", "lary.json"]
    table = files[0].read_text()
    for sees in ("both", "source", "both, PCA 2"):
        assert f"| mine.py | synthetic_pairs | class | {sees} |" in table
    # Once for train, once for val.
    assert len(list((tmp_path / "run/features").iterdir())) == 2
    # What is there stays.
    before = (tmp_path / "run/labels/probe.json").stat().st_mtime_ns
    panel.run(built, tmp_path / "run")
    assert (tmp_path / "run/labels/probe.json").stat().st_mtime_ns == before
    # One that was killed goes on with its settings alone.
    (tmp_path / "run/labels/probe.json").unlink()
    other = dataclasses.replace(built, labels=dataclasses.replace(built.labels, seed=7))
    with pytest.raises(ValueError, match="labels holds a probe of other settings"):
        panel.run(other, tmp_path / "run")
    with pytest.raises(ValueError, match="tracks: give the files of one at least"):
        panel.run(dataclasses.replace(built, tracks={}), tmp_path / "x")
