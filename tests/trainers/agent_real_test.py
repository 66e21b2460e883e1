"""The paper's run in small: a random HuggingFace model plays ALFWorld itself, and goes on."""

import json

import jax
import numpy as np
import pytest

from jaxlab import exporting, train
from jaxlab.agents.skill_library import SkillLibrary
from jaxlab.envs.household import generate, real, write
from jaxlab.runtime.checkpoint import Checkpointer
from jaxlab.text.tokenizer import train_bpe

pytestmark = pytest.mark.agents


@pytest.fixture(autouse=True, scope="module")
def alfworld(tmp_path_factory):
    """ALFWorld makes a folder for its downloads when it is imported; not in anybody's home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALFWORLD_DATA", str(tmp_path_factory.mktemp("alfworld")))
        yield pytest.importorskip("alfworld", reason="needs the extra agents")


@pytest.fixture(scope="module")
def stage(config, tmp_path_factory):
    """A run of a model in Qwen2's form on games as ALFWorld stores them."""
    folder = tmp_path_factory.mktemp("real")
    text = "You are in the middle of a room. Looking quickly around you, you see a cabinet 1."
    train_bpe([text], 280).save(folder / "tokenizer")
    first = config("skill1_alfworld", "tiny") | {"tokenizer": str(folder / "tokenizer")}
    first["train"]["steps"] = 1
    train.train(first, folder / "run")
    exporting.export(folder / "run", folder / "qwen2")
    assert json.loads((folder / "qwen2" / "config.json").read_text())["model_type"] == "qwen2"
    for index in range(2):
        game = generate.game("train", index, generate.inventory("made_up"))
        write(game, folder / "games", real.rules())
    stage = config("skill1_alfworld", "tiny") | {"model": {"path": str(folder / "qwen2")}}
    stage["data"] |= dict.fromkeys(("train", "test"), str(folder / "games"))
    stage["data"] |= {"engine": "textworld", "panel": 1}
    stage["rollout"] |= {"tasks": 1}
    stage["eval"]["meter_every"] = 0
    stage["train"] |= {"checkpoint_every": 1, "eval_every": 2, "steps": 2}
    # Trajectories are kept, for nobody can read what a random model writes.
    stage["skills"] = {"library": {"admit": "always"}, "distil": "raw"}
    return stage


def test_on_the_real_engine_a_run_that_goes_on_ends_bit_for_bit_the_same(stage, tmp_path):
    whole, halved = tmp_path / "whole", tmp_path / "halved"
    train.train(stage, whole)
    train.train(stage | {"train": stage["train"] | {"stop_after": 1}}, halved)
    train.train(stage, halved)
    states = [Checkpointer(w / "checkpoints").restore_params(2) for w in (whole, halved)]
    jax.tree.map(np.testing.assert_array_equal, *states)
    with SkillLibrary(whole) as one, SkillLibrary(halved) as other:
        assert len(one) > 0
        assert one.entries() == other.entries()
    rows = [json.loads(r) for r in (whole / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if "loss" in row]
    assert [row["step"] for row in steps] == [1, 2]
    # A random model writes what nobody can read: it is counted, and nothing breaks.
    assert all(row["unread_act"] == row["actions"] == 2 for row in steps)
    assert all(row["died"] == 0 for row in steps)
    assert steps[-1]["unread_query"] == 1
