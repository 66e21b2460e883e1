"""Probes of features: heads at once, data of features, a run."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxlab import config as config_lib
from jaxlab.evals import feature_store, features
from jaxlab.evals.lary import baselines, media, rows, splits, world
from jaxlab.nn.probe import Linear, ResidualMlp
from jaxlab.trainers import loop, probe
from jaxlab.trainers.settings import Train

CLASSES = 25  # of the world's 27 that 32 pairs and their reversals hold


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A world of 32 pairs, and the CSV files with random features of pairs and of chunks."""
    root = tmp_path_factory.mktemp("world")
    world.write(root, 32)
    found = {}
    for kind, sides in (
        ("synthetic_pairs", ("train", "val")),
        ("synthetic", ("seen_train", "seen_val")),
    ):
        panels = (rows.read(root / f"{kind}_metadata_{side}.csv", root) for side in sides)
        paths = [str(baselines.extract(panel, root / "la", "random")) for panel in panels]
        found[kind] = {
            "train": paths[0],
            "val": paths[1],
            "root": str(root),
            "features": str(root / "la"),
        }
    return found


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_heads_are_adamw_each(schedule):
    heads = probe.Heads((1e-2, 1e-3), (0.1, 0.5), schedule, warmup=0.25)
    mine = probe.adamw_of_heads(heads, 8)
    alone = []
    for rate, decay in zip(heads.learning_rates, heads.weight_decays, strict=True):
        rise = optax.linear_schedule(0.0, rate, 2)
        rest = {
            "cosine": optax.cosine_decay_schedule(rate, 6),
            "constant": optax.constant_schedule(rate),
        }[schedule]
        alone.append(optax.adamw(optax.join_schedules([rise, rest], [2]), weight_decay=decay))

    @jax.jit
    def step(n, together, apart):
        """The same step of all heads at once and of each by optax's own optimiser."""
        results = []
        for optimizer, (params, state) in zip([mine, *alone], [together, *apart], strict=True):
            grads = jax.tree.map(lambda p: jnp.sin(p + n), params)
            updates, state = optimizer.update(grads, state, params)
            results.append((optax.apply_updates(params, updates), state))
        return results[0], results[1:]

    params = {
        "a": np.array([[1.0, -2.0], [0.5, 3.0]], np.float32),
        "b": np.array([1.0, -1.0], np.float32),
    }
    own = [jax.tree.map(lambda p, h=h: p[h], params) for h in range(2)]
    together = params, jax.jit(mine.init)(params)
    apart = [(p, jax.jit(one.init)(p)) for one, p in zip(alone, own, strict=True)]
    for n in range(6):
        together, apart = step(n, together, apart)
        for h, (each, _) in enumerate(apart):
            for name in params:
                np.testing.assert_allclose(together[0][name][h], each[name], rtol=2e-6)


def test_both_ways_over_heads_agree():
    # So small that no tanh is at its end, where 1 - tanh^2 is rounding.
    params = np.random.default_rng(0).normal(size=(3, 4, 2)).astype(np.float32) / 4

    def loss(p):
        return jnp.sum(jnp.tanh(jnp.ones((5, 4)) @ p) ** 2)

    @jax.jit
    def both(params):
        grad = jax.value_and_grad(loss)
        return [probe.over_heads(grad, platform)(params) for platform in ("cpu", "gpu")]

    each, all_at_once = both(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6), each, all_at_once)


def test_losses_by_hand():
    # Two classes with smoothing 0.1: weights 0.95 and 0.05; log-probabilities of ln 3 and 0.
    outputs = np.log([[3.0, 1.0]]).astype(np.float32)
    expected = -(0.95 * np.log(0.75) + 0.05 * np.log(0.25))
    loss = jax.jit(probe.head_loss, static_argnums=2)
    found = loss(outputs, np.array([[0]]), 0.1)
    assert float(found) == pytest.approx(expected, rel=1e-6)
    # Huber: 0.5 * 0.5^2, and 3 - 0.5 beyond the threshold.
    found = loss(np.array([[0.5, 3.0]], np.float32), np.zeros((1, 2), np.float32), None)
    assert float(found) == pytest.approx((0.125 + 2.5) / 2)


def run(files, kind, workdir, model=None, steps=4, **more):
    """Train a small probe; returns the rows of metrics.jsonl."""
    data = features.FeatureData(**files[kind], **more.pop("data", {}))
    train = Train(steps, log_every=1, eval_every=steps, checkpoint_every=steps)
    settings = probe.Probe(model or Linear(), data, train, batch_size=8, eval_batch=8, **more)
    workdir.mkdir()
    final = loop.run(probe.program(settings, workdir), train, workdir)
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return final, [json.loads(line) for line in lines]


def test_labels_of_the_world(files, tmp_path):
    heads = probe.Heads((1e-3, 1e-4), (0.0, 0.1))
    final, found = run(files, "synthetic_pairs", tmp_path / "a", optim=heads, data={"inner": 0.2})
    last = found[-1]
    assert final.params["out"]["kernel"].shape == (2, 2 * 16 * 64, CLASSES)
    assert last["eval/micro"] == max(last["eval/micro_head_0"], last["eval/micro_head_1"])
    assert {"eval/macro", "eval/macro_low", "eval/micro_inner", "eval/inner_head"} <= last.keys()
    losses = [row["loss_head_0"] for row in found if "loss_head_0" in row]
    assert losses[0] == pytest.approx(np.log(CLASSES), abs=1.0)
    report = json.loads((tmp_path / "a/probe.json").read_text())
    assert [table["title"] for table in report["tables"]][:2] == ["Accuracy", "Accuracy by class"]
    assert report["about"]["rows of val whose twin or reversal is in train"] > 0
    assert "| micro | macro |" in (tmp_path / "a/probe.md").read_text()
    again, _ = run(files, "synthetic_pairs", tmp_path / "b", optim=heads, data={"inner": 0.2})
    jax.tree.map(np.testing.assert_array_equal, final.params, again.params)


def test_actions_of_two_robots(files, tmp_path):
    heads = probe.Heads((1e-4,), (1e-4,), "constant", 0.1)
    _, found = run(files, "synthetic", tmp_path / "a", ResidualMlp(width=16), optim=heads, steps=2)
    last = found[-1]
    assert {"eval/mse", "eval/position", "eval/gripper", "eval/robot_synthetic_a"} <= last.keys()
    # Of z-scores, by a network that has hardly begun.
    assert 0.3 < last["eval/mse"] < 4
    report = json.loads((tmp_path / "a/probe.json").read_text())
    assert report["about"]["normalised by"] == "robot"


def test_a_head_that_diverges_leaves_the_others_alone(files, tmp_path):
    # Head 0 takes a step of 1e30; its outputs overflow from then on, and it stays there.
    both, found = run(
        files, "synthetic_pairs", tmp_path / "a", optim=probe.Heads((1e30, 1e-3), (0.0, 0.0))
    )
    assert found[-2]["heads_left"] == 1
    assert np.isfinite(found[-2]["loss"])
    assert all(np.isfinite(leaf[0]).all() for leaf in jax.tree.leaves(both.params))
    alone, _ = run(
        files, "synthetic_pairs", tmp_path / "b", optim=probe.Heads((1e-3, 1e-3), (0.0, 0.0))
    )
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[1], b[1]), both.params, alone.params)


def test_inputs_of_a_pair(files, tmp_path):
    def seen(kind):
        data = features.FeatureData(**files["synthetic_pairs"], input=kind)
        opened = features.Opened(data, tmp_path)
        return opened.inputs(opened.val, np.array([0, 2]))

    both = seen("both")
    assert both.shape == (2, 2, 16, 64)
    assert np.array_equal(seen("source"), both[:, :1])
    assert np.array_equal(seen("target"), both[:, 1:])
    assert np.array_equal(seen("difference"), both[:, 1:] - both[:, :1])


def test_splits_and_weights(files, tmp_path):
    opened = features.Opened(
        features.FeatureData(**files["synthetic_pairs"], split="grouped", inner=0.25), tmp_path
    )
    opened.write(tmp_path, ())
    # A pair and its reversal are of one group.
    assert "- rows of val whose twin or reversal is in train: 0\n" in (
        (tmp_path / "probe.md").read_text()
    )
    groups = [{row.group for row in side.rows} for side in (opened.train, opened.val, opened.inner)]
    assert not groups[0] & groups[1]
    assert not groups[0] & groups[2]
    assert len(opened.train) + len(opened.val) + len(opened.inner) == 64
    weights = opened.weights()
    assert weights.sum() == pytest.approx(1)
    assert np.array_equal(weights, splits.balanced_weights(opened.train.targets, CLASSES))
    # Ids are those of the union of both files, and features those of the row's own.
    side = opened.val
    for row, tokens in zip(side.rows, side.read(np.arange(len(side))), strict=True):
        path = f"{files['synthetic_pairs']['features']}/{row.la_path}"
        assert np.array_equal(tokens, np.load(path)["tokens"])
    assert [opened.classes[i] for i in side.targets] == [row.action for row in side.rows]


def test_grouped_splits_of_files_of_one_name(files, tmp_path):
    """Rows are called by the file's name and the line, which two folders may both have."""
    paths = {}
    for side in ("train", "val"):
        paths[side] = tmp_path / side / "rows.csv"
        paths[side].parent.mkdir()
        shutil.copy(files["synthetic_pairs"][side], paths[side])
    named = {**files["synthetic_pairs"], **{side: str(path) for side, path in paths.items()}}
    opened = features.Opened(
        features.FeatureData(**named, split="grouped", inner=0.25), tmp_path / "run"
    )
    groups = [{row.group for row in side.rows} for side in (opened.train, opened.val, opened.inner)]
    assert not groups[0] & groups[1]
    assert not groups[0] & groups[2]
    assert len(opened.train) + len(opened.val) + len(opened.inner) == 64


def test_features_are_read_once_and_a_reading_goes_on(files, tmp_path, monkeypatch):
    data = features.FeatureData(**files["synthetic_pairs"])
    monkeypatch.setattr(feature_store, "_BATCH", 10)
    monkeypatch.setattr(feature_store, "_NOTE_EVERY", 0.0)
    calls, read = [], features.media.features

    def failing(path):
        calls.append(path)
        if len(calls) == 45:
            raise KeyboardInterrupt
        return read(path)

    monkeypatch.setattr(features.media, "features", failing)
    with pytest.raises(KeyboardInterrupt):
        features.Opened(data, tmp_path)
    before = len(calls)
    noted = json.loads(next((tmp_path / "features").glob("*/read.json")).read_text())["next"]
    # The fifth batch failed while the fourth was on its way.
    assert noted == 30
    opened = features.Opened(data, tmp_path)
    # 48 rows of train and 16 of val; those after the last note are read again.
    assert len(calls) == before + 48 - noted + 16
    before = len(calls)
    for side in (opened.train, opened.val):
        for row, tokens in zip(side.rows, side.read(np.arange(len(side))), strict=True):
            path = f"{data.features}/{row.la_path}"
            assert np.array_equal(tokens, read(path).tokens)
    features.Opened(data, tmp_path)
    assert len(calls) == before
    assert isinstance(opened.train.files[0], np.memmap)


def test_bad_features_are_named_or_counted(files, tmp_path):
    root = tmp_path / "world"
    shutil.copytree(files["synthetic"]["root"], root)
    data = {
        key: value.replace(files["synthetic"]["root"], str(root))
        for key, value in files["synthetic"].items()
    }
    folder = root / "la/synthetic/stride_5/seen_val/random"
    np.savez(folder / "latent_action_00000002.npz", tokens=np.ones((2, 3)))
    (folder / "latent_action_00000003.npz").write_bytes(b"PK")
    chunk = rows.read(data["val"], root, features=data["features"]).rows[4]
    np.save(root / "regression/synthetic_5" / chunk.action, np.full((5, 3), np.nan))
    with pytest.raises(ValueError, match=r"_random.csv:6: .*15 of 15 numbers are not finite"):
        features.Opened(features.FeatureData(**data), tmp_path)
    opened = features.Opened(features.FeatureData(**data, bad_rows="skip"), tmp_path)
    assert len(opened.val) == 8 - 3
    causes = [left.cause for left in opened.left_out]
    assert "not finite" in causes[0]
    assert "features of (2, 3), others are (2, 16, 64)" in causes[1]
    assert "not an .npz of features" in causes[2]
    # What was left out before is not read by another run without a word.
    np.save(root / "regression/synthetic_5" / chunk.action, np.zeros((5, 3)))
    skipped = features.FeatureData(**data, bad_rows="skip")
    assert len(features.Opened(skipped, tmp_path).val) == 8 - 2
    with pytest.raises(ValueError, match=r"features of \(2, 3\).*bad_rows=skip leaves it out"):
        features.Opened(features.FeatureData(**data), tmp_path)
    np.save(root / "regression/synthetic_5" / chunk.action, np.full((5, 3), np.nan))
    (folder / "latent_action_00000005.npz").unlink()
    fewer = features.Opened(features.FeatureData(**data, bad_rows="skip", missing="skip"), tmp_path)
    assert len(fewer.val) == 8 - 4
    assert "missing: " in fewer.left_out[0].cause
    kept = [row.la_path for row in opened.val.rows]
    kept.remove("synthetic/stride_5/seen_val/random/latent_action_00000005.npz")
    expected = [np.load(root / "la" / path)["tokens"] for path in kept]
    assert np.array_equal(fewer.val.read(np.arange(4)), expected)


def test_features_that_are_there_are_those_of_the_row_and_the_seed(files, tmp_path):
    root = files["synthetic"]["root"]
    panel = rows.read(f"{root}/synthetic_metadata_seen_val.csv", root)
    # An extraction of fewer rows came first: it must not shift the others.
    baselines.extract(dataclasses.replace(panel, rows=panel.rows[1:]), tmp_path, "random")
    for seed in (0, 1):
        table = baselines.extract(panel, tmp_path, "random", seed)
        found = rows.read(table, root, features=tmp_path)
        for row in found.rows:
            tokens = np.load(found.path(row, "la_path"))["tokens"]
            expected = baselines.encode(media.pair(panel, row), "random", seed)
            assert np.array_equal(tokens, expected)


def test_bad_settings(files, tmp_path):
    for wrong, cause in (
        ({"synthetic": features.Synthetic(8), "train": "x.csv"}, "the world has its own files"),
        ({"synthetic": features.Synthetic(8), "features": "la"}, "the world has its own files"),
        ({"norm": "robots"}, "norm='robots' is not one of robot, all, shipped"),
        ({"split": "Grouped"}, "split='Grouped' is not one of"),
        ({"inner": 1.0}, "inner in"),
        ({"norm": "shipped", "mode": "relative"}, "constants are of absolute actions"),
    ):
        with pytest.raises(ValueError, match=cause):
            features.FeatureData(**wrong)
    with pytest.raises(ValueError, match="train, val and root are needed, or synthetic"):
        features.Opened(features.FeatureData(), tmp_path)
    with pytest.raises(ValueError, match="one of each head"):
        probe.Heads((1e-3,), (0.1, 0.2))
    mixed = {**files["synthetic"], "train": files["synthetic_pairs"]["train"]}
    with pytest.raises(ValueError, match="train is of track synthetic_pairs, val of synthetic"):
        features.Opened(features.FeatureData(**mixed), tmp_path)
    root = files["synthetic"]["root"]
    plain = {"train": f"{root}/synthetic_metadata_seen_train.csv", "root": root}
    with pytest.raises(ValueError, match="csv:2: no la_path: a probe needs features"):
        features.Opened(features.FeatureData(**plain, val=plain["train"]), tmp_path)


def test_the_config_s_keys_are_checked(config):
    tiny = config("lary_synthetic", "tiny")["stages"]["action_semantic_labels"]
    tiny["data"]["synthetic"]["encoder"] = "vit"
    with pytest.raises(config_lib.ConfigError, match="encoder"):
        config_lib.build(probe.Probe, tiny)
