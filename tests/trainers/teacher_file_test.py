"""Files of a teacher's log-probabilities: written, checked, and learnt from."""

import dataclasses
import json
import math
import re

import jax
import numpy as np
import pytest

from jaxlab import config as config_lib
from jaxlab import teacher_logprobs, train
from jaxlab.config import ConfigError
from jaxlab.data.tasks.modsum import ModSum
from jaxlab.interop import models
from jaxlab.losses.types import Needs
from jaxlab.models.decoder import Decoder, left_padded
from jaxlab.runtime import manifest
from jaxlab.trainers import distill, resuming, teacher_file
from jaxlab.trainers.teacher_file import About, Said, TeacherFile, TeacherFileError, Writer

SIZES = {
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_layers": 1,
    "num_heads": 1,
    "num_kv_heads": 1,
    "max_position": 96,
}
MODULUS = {"modulus": 5, "addends": 2}
CONFIG = {
    "trainer": "distill",
    "student": {"sizes": SIZES},
    "teacher": {"sizes": SIZES | {"hidden_size": 12}},
    "data": {"task": "modsum", "options": MODULUS, "num_train": 5, "max_prompt": 16},
    "loss": {
        "name": "gkd",
        "divergence": "fkl",
        "support": "teacher_topk",
        "renormalise": "tail_bucket",
        "top_k": 6,
    },
    "rollout": {"prompts": 4, "samples": 2, "max_new_tokens": 8, "source": "data"},
    "train": {"steps": 8, "microbatch": 4},
    "teacher_temperature": 0.8,
    "optim": {"learning_rate": 0.1},
}

# Three tokens in two completions, of five words.
LOG = math.log
ABOUT = About("abcd", "by hand", "digest", 5, 2, 1.0, "data", 1, 4)
OF_TEACHER = dataclasses.replace(ABOUT, source="teacher", samples=8, sampled_at=0.7)
ROWS = {
    7: Said(
        tokens=np.array([1, 4]),
        token=np.log([0.5, 0.1]),
        words=np.array([[1, 0], [2, 3]]),
        top=np.log([[0.5, 0.25], [0.4, 0.3]]),
        tail=np.log([0.25, 0.3]),
    ),
    9: Said(
        tokens=np.array([3]),
        token=np.log([0.125]),
        words=np.array([[0, 3]]),
        top=np.log([[0.75, 0.125]]),
        tail=np.log([0.125]),
    ),
}


@pytest.fixture
def by_hand(tmp_path):
    writer = Writer(tmp_path, ABOUT)
    for row, said in ROWS.items():
        writer.add(row, [said])
    writer.close()
    return tmp_path


def test_what_is_written_is_read(by_hand, monkeypatch):
    monkeypatch.setattr(teacher_file, "key", lambda prompt, completion=(): prompt[0])
    file = TeacherFile(by_hand)
    assert (file.about.rows, file.about.tokens) == (2, 3)
    assert file.about.tail_mass == pytest.approx((0.25 + 0.3 + 0.125) / 3)
    for row, expected in ROWS.items():
        (said,) = file.said([row])
        for name, values in expected._asdict().items():
            np.testing.assert_allclose(getattr(said, name), values, rtol=1e-6, err_msg=name)
        assert isinstance(said.words.base, np.memmap)
    with pytest.raises(TeacherFileError, match="has no row of the prompt of 1 tokens"):
        file.said([8])


def test_the_view_of_a_batch():
    """Of two words one is asked for: the other's mass is the tail's."""
    rows = list(ROWS.values())
    found = teacher_file.view(rows, 3, Needs(teacher="topk", top_k=1, tail=True))
    assert found.words.tolist() == [[[1], [2], [0]], [[0], [0], [0]]]
    assert found.top[0, :2, 0] == pytest.approx([LOG(0.5), LOG(0.4)])
    assert found.tail[0, :2] == pytest.approx([LOG(0.5), LOG(0.6)])
    assert found.tail[1, :1] == pytest.approx([LOG(0.25)])
    assert found.token[1] == pytest.approx([LOG(0.125), 0, 0])
    assert teacher_file.view(rows, 1, Needs(teacher="token")).token.shape == (2, 1)
    whole = teacher_file.view(rows, 2, Needs(teacher="topk", top_k=9))
    assert whole.words.shape == (2, 2, 2)
    assert whole.tail is None


def test_keys_tell_rows_apart():
    assert teacher_file.key([1, 2], [3]) == teacher_file.key([1, 2], [3])
    others = {teacher_file.key(*x) for x in (([1, 2], [3]), ([1], [2, 3]), ([1, 2, 3],), ([1, 2],))}
    assert len(others) == 4


def _changed(name, change):
    """Changes an array of the directory and vouches for it."""

    def apply(folder):
        values = np.load(folder / f"{name}.npy")
        np.save(folder / f"{name}.npy", change(values))
        manifest.write(folder)

    return apply


def _set(place, value):
    def change(values):
        values[place] = value
        return values

    return change


def _told(**changes):
    def apply(folder):
        about = json.loads((folder / "about.json").read_text()) | changes
        (folder / "about.json").write_text(json.dumps(about))
        manifest.write(folder)

    return apply


def _cut(folder):
    file = folder / "top.npy"
    file.write_bytes(file.read_bytes()[:-4])


def _cut_and_vouched_for(folder):
    _cut(folder)
    manifest.write(folder)


DAMAGED = {
    "cut": (_cut, r"top.npy has 148 bytes instead of 152: write it again with python -m"),
    "cut, with a manifest": (_cut_and_vouched_for, "top.npy: "),
    "missing": (lambda folder: (folder / "tail.npy").unlink(), "tail.npy is missing"),
    "no manifest": (lambda folder: (folder / manifest.NAME).unlink(), "manifest.json is missing"),
    "nan": (_changed("top", _set((1, 1), np.nan)), "token 1 of row 0 is not finite"),
    "nan of a token": (_changed("token", _set(2, np.nan)), "token 0 of row 1 is not finite"),
    "no word": (_changed("words", _set((2, 0), 5)), "token 0 of row 1 is no word"),
    "negative": (_changed("tokens", _set(0, -1)), "token 0 of row 0 is no word"),
    "twice": (_changed("words", _set((0, 1), 1)), "token 0 of row 0 has a word twice"),
    "order": (
        _changed("top", lambda top: top[:, ::-1]),
        "token 0 of row 0 is not in order",
    ),
    "above 0": (_changed("top", _set((0, 0), 0.5)), "token 0 of row 0 is above 0"),
    "mass": (_changed("tail", _set(1, LOG(0.2))), "token 1 of row 0 has masses whose sum is not 1"),
    "two": (_changed("token", _set(2, LOG(0.2))), "token 0 of row 1 has two log-probabilities"),
    "type": (
        _changed("words", lambda words: words.astype(np.int64)),
        r"words.npy is int64 \(3, 2\) instead of int32 \(3, 2\)",
    ),
    "rows": (_changed("keys", lambda keys: keys[:1]), r"keys.npy is uint64 \(1,\) instead of"),
    "begins": (_changed("begins", _set(1, 3)), "begins.npy does not divide the tokens"),
    "no number": (_told(top_k="two"), "about.json.top_k: expected int, got 'two'"),
    "unknown": (_told(topk=2), "about.json.topk is not a known key"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_refused(by_hand, damage, message):
    damage(by_hand)
    with pytest.raises(ValueError, match=message):
        TeacherFile(by_hand)


def test_a_directory_of_something_else(tmp_path):
    with pytest.raises(TeacherFileError, match=r"has no about.json: write it with python -m"):
        TeacherFile(tmp_path)
    with pytest.raises(TeacherFileError, match="does not exist"):
        TeacherFile(tmp_path / "nowhere")


def _check(about=ABOUT, **changes):
    words = ModSum(**MODULUS).tokenizer()
    fits = {
        "vocabulary": teacher_file.vocabulary(words),
        "vocab_size": words.vocab_size,
    }
    file = object.__new__(TeacherFile)
    file.path = "DIR"
    asked = {
        "temperature": 1.0,
        "source": "data",
        "samples": 8,
        "max_new_tokens": 4,
        "sampled_at": 0.7,
    }
    told = {key: value for key, value in changes.items() if key not in asked}
    file.about = dataclasses.replace(about, **fits | told)
    asked |= {key: value for key, value in changes.items() if key in asked}
    file.check(words, Needs(teacher="topk", top_k=2), **asked)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocabulary": "0123"}, r"is of another vocabulary \(\d+ words, digest 0123\) than the"),
        ({"vocab_size": 99}, r"is of another vocabulary \(99 words"),
        ({"top_k": 1}, "was written with loss.top_k = 1, the run has 2: set it so, or"),
        ({"temperature": 0.5}, "teacher_temperature = 1.0, the run has 0.5"),
        ({"source": "teacher"}, "rollout.source = 'data', the run has 'teacher'"),
        ({"max_new_tokens": 5}, "rollout.max_new_tokens = 4, the run has 5"),
    ],
)
def test_a_file_for_another_run_is_refused(changes, message):
    _check()
    with pytest.raises(TeacherFileError, match=message):
        _check(**changes)


def test_texts_of_the_teacher_that_another_run_would_not_have():
    _check(OF_TEACHER, source="teacher")
    with pytest.raises(TeacherFileError, match=r"with rollout\.samples = 8, the run has 9"):
        _check(OF_TEACHER, source="teacher", samples=9)
    with pytest.raises(TeacherFileError, match=r"with rollout\.temperature = 0\.7, the run"):
        _check(OF_TEACHER, source="teacher", sampled_at=1.0)


def test_the_command_asks_what_the_run_asks(tmp_path):
    """Prompts hold thinkers' texts where the run's do, and fit into the teacher's context."""
    config = config_lib.build(distill.Distill, CONFIG | {"thinkers": {"path": "nowhere"}})
    with pytest.raises(FileNotFoundError, match="nowhere: there are no thinkers"):
        teacher_logprobs.write(config, tmp_path / "said")
    small = _with(teacher={"sizes": SIZES | {"max_position": 20}})
    with pytest.raises(ConfigError, match="tokens exceed the teacher's context of 20"):
        teacher_logprobs.write(config_lib.build(distill.Distill, small), tmp_path / "said")
    with pytest.raises(ConfigError, match="tokens exceed the teacher's context of 20"):
        distill.program(config_lib.build(distill.Distill, small), tmp_path / "run")
    assert not list(tmp_path.glob("said*"))


def _with(**changes):
    return {key: CONFIG.get(key, {}) | value for key, value in changes.items()} | {
        key: value for key, value in CONFIG.items() if key not in changes
    }


@pytest.fixture(scope="module")
def written(door, tmp_path_factory):
    """The file of CONFIG's teacher, by the command."""
    folder = tmp_path_factory.mktemp("teacher")
    (folder / "run.py").write_text(f"def get_config():\n    return {CONFIG!r}\n")
    flags = f"--config={folder / 'run.py'}", f"--out={folder / 'said'}"
    refused = door("teacher_logprobs", *flags, "--config.rollout.source=student")
    assert refused.returncode == 2
    assert "rollout.source: the student's completions are new at every step" in refused.stderr
    done = door("teacher_logprobs", *flags)
    assert done.returncode == 0, done.stderr
    assert "1 rows repeat another and are written once" in done.stderr
    assert re.search(r"4 rows, 28 tokens, the 6 likeliest words; 0\.\d+ of the mass", done.stderr)
    return str(folder / "said")


def _step(config, workdir, index):
    run = distill._Run(config_lib.build(distill.Distill, config), workdir)
    program = run.program()
    output = program.step(program.init(), index)
    return {k: float(v) for k, v in output.metrics.items()} | dict(output.host_metrics())


def test_a_run_learns_from_the_file_as_from_the_teacher(written, tmp_path):
    """With fewer words than the file has, and without the teacher in memory."""
    live, file = ({"loss": {"top_k": 4}, "teacher": x} for x in ({}, {"logprobs": written}))
    file["teacher"]["sizes"] = {}
    expected, found = (_step(_with(**x), tmp_path / "run", 0) for x in (live, file))
    for name, value in expected.items():
        if name != "model_flops":
            assert found[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name
    assert 0 < found["model_flops"] < expected["model_flops"]
    assert 0 < found["teacher_mass"] < 1


@pytest.mark.slow
def test_of_a_teacher_beside_its_file_each_reads_its_own_steps(written, tmp_path):
    """GKD's share of the student's own answers: the model reads them, the file the data's."""
    shared = {"loss": {"top_k": 4}, "rollout": {"student_share": 0.5}}
    live, both = _with(**shared), _with(**shared, teacher={"logprobs": written})
    mixed = config_lib.build(distill.Distill, live).rollout
    turns = [distill.author(mixed, 0, step) for step in range(8)]
    for source in ("data", "student"):
        index = turns.index(source)
        expected, found = (_step(x, tmp_path / source, index) for x in (live, both))
        assert found.keys() == expected.keys()
        assert (found["model_flops"] < expected["model_flops"]) == (source == "data")
        for name in expected.keys() - {"model_flops"}:
            assert found[name] == pytest.approx(expected[name], rel=1e-5, abs=1e-6), name


def test_completions_of_the_teacher_are_taken_from_the_file(door, tmp_path):
    """Sequence-level distillation: what the teacher wrote once, without it; read in two parts."""
    config = _with(loss={"name": "cross_entropy"}, rollout={"source": "teacher"})
    config["loss"] = {"name": "cross_entropy"}
    (tmp_path / "run.py").write_text(f"def get_config():\n    return {config!r}\n")
    said = tmp_path / "said"
    done = door("teacher_logprobs", f"--config={tmp_path / 'run.py'}", f"--out={said}")
    assert done.returncode == 0, done.stderr
    spec = config_lib.build(distill.Distill, config).teacher_model
    config["teacher"] = {"logprobs": str(said)}
    run = distill._Run(config_lib.build(distill.Distill, config), tmp_path / "run")
    assert run.teacher is None
    rows = [run.text.prompt(i, "train") for i in range(4)]
    rollout = run._answers(None, rows, 0)
    file, stop = TeacherFile(said), run.text.tokenizer.eos_id
    texts = [one.tokens.tolist() for _, prompt in rows for one in file.said(prompt)]
    # The two answers to a prompt are the teacher's, each its own.
    assert texts[0] != texts[1]
    response, mask = np.asarray(rollout.response), np.asarray(rollout.mask)
    assert [row[m].tolist() for row, m in zip(response, mask, strict=True)] == texts
    assert rollout.stopped.tolist() == [text[-1] == stop for text in texts]
    assert run.fixed.view(rows, 8) is None
    # What is said of each token is of that token, behind its own prompt.
    size = run.text.tokenizer.vocab_size
    source = models.find(spec, "teacher", vocab_size=size, seed=0)
    params = source.load(run.mesh, run.config.mesh.rules)
    width = rollout.prompt_width
    inputs = left_padded(rollout.tokens.shape[1], rollout.lengths + response.shape[1])
    logits = jax.jit(Decoder(source.config).apply)({"params": params}, rollout.tokens, *inputs)
    logp = jax.nn.log_softmax(logits[:, width - 1 : -1, :size] / 0.8)
    for row, one in enumerate(one for _, prompt in rows for one in file.said(prompt)):
        of_row = np.asarray(logp[row, : len(one.tokens)])
        expected = np.take_along_axis(of_row, one.tokens[:, None], 1)[:, 0]
        np.testing.assert_allclose(one.token, expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(one.top, -np.sort(-of_row)[:, : one.top.shape[1]], rtol=1e-4)
    digest = resuming.inputs(config_lib.to_json(run.config))["teacher.logprobs"]
    assert len(digest) == 64


REFUSED = {
    "on policy": (
        {"rollout": {"source": "student"}},
        "teacher.logprobs: a file knows fixed completions, and the student's are new at every "
        'step: set rollout.source to "data" or "teacher"',
    ),
    "whole vocabulary": (
        {"loss": {"support": "full"}},
        "teacher.logprobs: the loss compares the whole vocabulary",
    ),
    "nobody reads": (
        {"rollout": {"student_share": 0.5}},
        "teacher.path: with rollout.student_share somebody has to read",
    ),
    "nothing to read": (
        {"loss": {"name": "cross_entropy"}},
        "teacher.logprobs: the loss cross_entropy reads no teacher, and the completions are the",
    ),
    "other rows": (
        {"data": {"options": MODULUS | {"seed": 1}}},
        "has no row of the prompt of",
    ),
    "other model": (
        {"teacher": {"sizes": SIZES | {"hidden_size": 16}}},
        "is of another model (from scratch, ",
    ),
    "more words": ({"loss": {"top_k": 7}}, "written with loss.top_k = 6, the run has 7"),
    "statistics": ({"statistics": True}, "statistics: there is no teacher whose distribution"),
    "a URL": ({"teacher": {"logprobs": "gs://bucket/said"}}, "gs://bucket/said is a URL"),
}


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED)
def test_what_a_file_cannot_do_is_one_line_and_code_2(capsys, written, tmp_path, changes, message):
    config = _with(teacher={"sizes": {}, "logprobs": written})
    for name, value in changes.items():
        merged = isinstance(value, dict) and "name" not in value
        config[name] = config[name] | value if merged else value
    with pytest.raises(SystemExit) as leaving:
        train.train(config, tmp_path / "run")
    (line,) = capsys.readouterr().err.splitlines()
    assert leaving.value.code == 2
    assert message in line
    assert not (tmp_path / "run" / "config.json").exists()
