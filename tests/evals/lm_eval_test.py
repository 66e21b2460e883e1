import functools
import json
import runpy
import shutil
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("lm_eval")

import lm_eval
from lm_eval.api.instance import Instance
from lm_eval.tasks import TaskManager

from jaxlab.config import ConfigError
from jaxlab.evals.likelihood import Likelihood
from jaxlab.evals.lm_eval_adapter import JaxlabLM
from jaxlab.interop import hf
from jaxlab.models.decoder import Decoder
from jaxlab.models.sizes import Sizes
from jaxlab.runtime.drawing import by_operations
from jaxlab.runtime.mesh import make_mesh
from jaxlab.text.tokenizer import train_bpe

CONFIG = Sizes(
    vocab_size=300,
    hidden_size=32,
    intermediate_size=64,
    num_layers=1,
    num_heads=2,
    num_kv_heads=1,
    max_position=256,
).decoder()
MESH = make_mesh({"data": 1}, devices=jax.devices()[:1])
# What a float32 forward pass and a sum of some hundred log-probabilities round off.
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def params():
    params = by_operations(Decoder(CONFIG).init)(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))[
        "params"
    ]
    return jax.tree.map(lambda x: 2.0 * x, params)


@pytest.fixture(scope="module")
def directory(params, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tokenizer = train_bpe(["Question: what is 1 and 2? Answer: 3"], 270)
    hf.save(folder, CONFIG, params, eos_token_id=tokenizer.eos_id)
    tokenizer.save(folder)
    return folder


@pytest.fixture(scope="module")
def lm(directory):
    return JaxlabLM(pretrained=str(directory), batch_size=4, multiple=64, max_gen_toks=12)


@pytest.fixture(scope="module")
def full(params, tmp_path_factory):
    """A directory whose rows are all words: transformers counts those beyond, we do not."""
    folder = tmp_path_factory.mktemp("full")
    texts = [f"Question: what is {n} and {n + 1}? Answer: {2 * n + 1}" for n in range(60)]
    tokenizer = train_bpe(texts, CONFIG.vocab_size)
    assert tokenizer.vocab_size == CONFIG.vocab_size
    hf.save(folder, CONFIG, params, eos_token_id=tokenizer.eos_id)
    tokenizer.save(folder)
    return folder


@pytest.fixture(scope="module")
def full_lm(full):
    return JaxlabLM(pretrained=str(full), batch_size=4, multiple=64, max_gen_toks=12)


def _ask(kind, *arguments):
    return [Instance(kind, {}, one, i) for i, one in enumerate(arguments)]


@jax.jit
def _logits(params, row):
    return Decoder(CONFIG).apply({"params": params}, row[None])[0]


def _reference(params, context, continuation, words=None):
    """One row by itself, of one width; log-softmax over the words in float64."""
    tokens = [*context, *continuation][-CONFIG.max_position - 1 :]
    row = np.zeros(CONFIG.max_position, np.int32)
    row[: len(tokens) - 1] = tokens[:-1]
    begin = len(tokens) - 1 - len(continuation)
    logits = np.asarray(_logits(params, row), np.float64)[:, :words]
    logits = logits[begin : begin + len(continuation)]
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    picked = logp[np.arange(len(continuation)), continuation]
    return picked.sum(), bool((logits.argmax(-1) == continuation).all())


def _pairs(count, longest=100, seed=0):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, longest // 2, size=(count, 2))
    return [tuple(rng.integers(300, size=n).tolist() for n in row) for row in sizes]


def test_scores_are_those_of_a_plain_loop(params):
    pairs = _pairs(9)
    found = dict(Likelihood(Decoder(CONFIG), params, MESH, rows=4, multiple=32)(pairs))
    assert sorted(found) == list(range(9))
    for i, (context, continuation) in enumerate(pairs):
        logprob, greedy = _reference(params, context, continuation)
        assert found[i].logprob == pytest.approx(logprob, abs=TOLERANCE)
        assert found[i].greedy is greedy


def test_neighbours_and_order_change_no_bit(params):
    score = Likelihood(Decoder(CONFIG), params, MESH, rows=4, multiple=32)
    pairs = _pairs(9)
    alone = [dict(score([pair]))[0] for pair in pairs]
    backwards = dict(score(pairs[::-1]))
    assert [backwards[8 - i] for i in range(9)] == alone


def test_contexts_lose_their_beginning_and_continuations_nothing(params):
    score = Likelihood(Decoder(CONFIG), params, MESH, rows=1, multiple=64)
    context, continuation = list(range(250)), list(range(30, 60))
    (found,) = dict(score([(context, continuation)])).values()
    expected, _ = _reference(params, context[-227:], continuation)
    assert found.logprob == pytest.approx(expected, abs=TOLERANCE)
    for bad in [([], [1]), ([1], []), ([1], [1] * 257)]:
        with pytest.raises(ValueError, match="pair 1: a context of"):
            list(score([([1], [1]), bad]))
    with pytest.raises(ValueError, match="rows >= 1"):
        Likelihood(Decoder(CONFIG), params, MESH, rows=0)


def test_loglikelihood_of_texts(lm, params):
    asked = [("Question: what is 1?", " Answer: 3"), ("", "Answer"), ("and ", "is 2")]
    found = lm.loglikelihood(_ask("loglikelihood", *asked), disable_tqdm=True)
    encode = lm.tokenizer.encode
    split = [
        (encode(asked[0][0]), encode(asked[0][1])),
        ([lm.tokenizer.eos_id], encode("Answer")),
        # The harness moves a final space to the continuation.
        (encode("and"), encode("and is 2")[len(encode("and")) :]),
    ]
    for (logprob, greedy), pair in zip(found, split, strict=True):
        expected, best = _reference(params, *pair, lm.tokenizer.vocab_size)
        assert logprob == pytest.approx(expected, abs=TOLERANCE)
        assert greedy is best


def test_what_is_generated_greedily_is_greedy(lm):
    prompt = "Question: what is"
    (text,) = lm.generate_until(_ask("generate_until", (prompt, {"until": []})), disable_tqdm=True)
    ids = lm._batcher.submit(lm.tok_encode(prompt), lm._sampling({})[0], 0).result().tokens
    assert lm.tokenizer.decode(ids) == text
    # By ids: a random model's text is no text that the tokenizer would split the same way.
    assert dict(lm._likelihood([(lm.tok_encode(prompt), ids)]))[0].greedy
    ids[0] += 1
    assert not dict(lm._likelihood([(lm.tok_encode(prompt), ids)]))[0].greedy


@pytest.mark.parametrize(
    ("overlap", "windows"),
    [
        # The harness' own example: ten tokens, a context of four; -1 is the prefix.
        (1, [([-1], [0, 1, 2, 3]), ([3], [4, 5, 6, 7]), ([5, 6, 7], [8, 9])]),
        (3, [([-1], [0, 1, 2, 3]), ([1, 2, 3], [4, 5]), ([3, 4, 5], [6, 7]), ([5, 6, 7], [8, 9])]),
    ],
)
def test_rolling_windows(directory, params, monkeypatch, overlap, windows):
    lm = JaxlabLM(
        pretrained=str(directory), batch_size=2, multiple=4, max_length=4, context_len=overlap
    )
    tokens = [7 * i + 20 for i in range(10)]
    monkeypatch.setattr(lm, "tok_encode", lambda text, **_: tokens if text else [])
    prefix = lm.prefix_token_id
    asked = _ask("loglikelihood_rolling", ("text",), ("",), ("text",))
    first, empty, second = lm.loglikelihood_rolling(asked, disable_tqdm=True)
    named = {-1: prefix} | dict(enumerate(tokens))
    expected = sum(
        _reference(
            params,
            [named[i] for i in context],
            [named[i] for i in predicted],
            lm.tokenizer.vocab_size,
        )[0]
        for context, predicted in windows
    )
    assert first == second == pytest.approx(expected, abs=TOLERANCE)
    assert empty == 0.0


def test_generation_stops_samples_and_repeats(lm):
    options = {"until": [], "max_gen_toks": 12}
    (whole,) = lm.generate_until(_ask("generate_until", ("what", options)), disable_tqdm=True)
    stop = whole[len(whole) // 2 :][:2]
    (cut,) = lm.generate_until(
        _ask("generate_until", ("what", options | {"until": ["never", stop]})), disable_tqdm=True
    )
    assert cut == whole[: whole.find(stop)]
    sampled = {"until": [], "do_sample": True, "temperature": 1.0}
    asked = _ask("generate_until", *[("what", sampled)] * 4)
    texts = lm.generate_until(asked, disable_tqdm=True)
    assert len(set(texts)) > 1
    assert lm.generate_until(asked, disable_tqdm=True) == texts


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 4}, "does not have 'num_beams'"),
        ({"max_gen_toks": 256}, "leaves no room for a prompt"),
    ],
)
def test_what_a_task_may_not_ask(lm, options, message):
    with pytest.raises(ValueError, match=message):
        lm.generate_until(_ask("generate_until", ("a", options)), disable_tqdm=True)


def test_bad_arguments(directory, tmp_path):
    with pytest.raises(ConfigError, match="batchsize"):
        JaxlabLM(pretrained=str(directory), batchsize=1)
    with pytest.raises(ConfigError, match="holds neither a HuggingFace model"):
        JaxlabLM(pretrained=str(tmp_path))
    shutil.copy(directory / "config.json", tmp_path)
    with pytest.raises(ConfigError, match=r"has no tokenizer\.json"):
        JaxlabLM(pretrained=str(tmp_path))
    with pytest.raises(ValueError, match="max_length 999"):
        JaxlabLM(pretrained=str(directory), max_length=999)
    lm = JaxlabLM(pretrained=str(directory), max_length=8)
    with pytest.raises(ValueError, match="continuation of 9 tokens does not fit"):
        lm.loglikelihood(_ask("loglikelihood", ("a", "?" * 9)), disable_tqdm=True)


TASKS = {
    "generated": """
task: jaxlab_gsm8k
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}, cache_dir: {cache}}}
test_split: test
output_type: generate_until
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_target: "{{{{answer.split('#### ')[-1]}}}}"
generation_kwargs: {{until: ["Question:"], max_gen_toks: 16}}
filter_list:
  - name: flexible-extract
    filter:
      - {{function: regex, group_select: -1, regex_pattern: "(-?[0-9]+)"}}
      - {{function: take_first}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
""",
    "chosen": """
task: jaxlab_gsm8k_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}, cache_dir: {cache}}}
test_split: test
output_type: multiple_choice
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_choice: ["{{{{answer.split('#### ')[-1]}}}}", "0"]
doc_to_target: 0
metric_list: [{{metric: acc}}]
""",
    "read": """
task: jaxlab_gsm8k_text
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}, cache_dir: {cache}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{question}}}}"
metric_list: [{{metric: bits_per_byte}}]
""",
}


@pytest.fixture
def tasks(tmp_path):
    """Writes the three tasks over a file of rows; returns their folder."""

    def write(rows):
        folder = tmp_path / "tasks"
        folder.mkdir()
        for name, text in TASKS.items():
            task = text.format(rows=rows, cache=tmp_path / "cache")
            (folder / f"{name}.yaml").write_text(task)
        return folder

    return write


NAMES = ["jaxlab_gsm8k", "jaxlab_gsm8k_choice", "jaxlab_gsm8k_text"]


def _evaluated(lm, folder, **more):
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    found = lm_eval.simple_evaluate(
        model=lm, tasks=NAMES, task_manager=manager, bootstrap_iters=0, **more
    )
    return found


def _check(found, lm, params, count):
    """The harness' results are what the model says to the rows that it logged."""
    samples = found["samples"]
    assert all(len(samples[name]) == count for name in NAMES)
    for sample in samples["jaxlab_gsm8k_choice"][:3]:
        scores = []
        for (context, continuation), ((logprob, _),) in zip(
            (arguments for arguments in sample["arguments"]), sample["resps"], strict=True
        ):
            pair = lm._encode_pair(context, continuation)
            expected, _ = _reference(params, *pair, lm.tokenizer.vocab_size)
            assert float(logprob) == pytest.approx(expected, abs=TOLERANCE)
            scores.append(expected)
        assert sample["acc"] == float(scores[0] > scores[1])
    results = found["results"]
    read = samples["jaxlab_gsm8k_text"]
    nats = sum(float(sample["resps"][0][0]) for sample in read)
    size = sum(len(sample["target"].encode()) for sample in read)
    bits = results["jaxlab_gsm8k_text"]["bits_per_byte,none"]
    assert bits == pytest.approx(-nats / size / np.log(2))
    assert 0 <= results["jaxlab_gsm8k"]["exact_match,flexible-extract"] <= 1


def test_tasks_over_rows_like_gsm8k(gsm8k, tasks, lm, params):
    _check(_evaluated(lm, tasks(gsm8k["test"])), lm, params, count=8)


def test_tasks_over_gsm8k(real_data, tasks, lm, params):
    _check(_evaluated(lm, tasks(real_data("gsm8k/test.jsonl")), limit=3), lm, params, count=3)


def test_the_command_line(gsm8k, tasks, directory, tmp_path, monkeypatch):
    out = tmp_path / "out"
    model = f"pretrained={directory},multiple=64"
    arguments = ["run", "--model", "jaxlab", "--model_args", model, "--tasks", "jaxlab_gsm8k"]
    arguments += ["--include_path", str(tasks(gsm8k["test"])), "--batch_size", "4"]
    arguments += ["--output_path", str(out), "--log_samples"]
    monkeypatch.setattr(sys, "argv", ["lm_eval", *arguments])
    # Reading the harness' own thousands of tasks takes ten seconds.
    own = functools.partial(TaskManager, include_defaults=False)
    monkeypatch.setattr("lm_eval.tasks.TaskManager", own)
    # With -m this module is __main__, though it has been imported by name before.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        runpy.run_module("jaxlab.evals.lm_eval_adapter", run_name="__main__", alter_sys=True)
    (report,) = out.rglob("results_*.json")
    assert "exact_match,flexible-extract" in json.loads(report.read_text())["results"][NAMES[0]]
    (samples,) = out.rglob("samples_*.jsonl")
    assert len(samples.read_text().splitlines()) == 8


def _asked():
    rng = np.random.default_rng(0)
    words = ["Question:", "what is", "1", "and 2?", "Answer:", "3", "4", "\n"]
    texts = [" ".join(rng.choice(words, size=n)) for n in rng.integers(2, 60, size=40)]
    pairs = [(text, f" {word}") for text in texts for word in ("3", "so 4")]
    return texts, [*pairs, ("", "Answer: 3"), ("and ", "is 2"), ("x" * 300, " 3")]


@pytest.mark.interop
def test_log_likelihoods_are_those_of_transformers(full_lm, full):
    """On the exported model, one row at a time and without padding."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    lm, model = full_lm, transformers.AutoModelForCausalLM.from_pretrained(full).eval()
    _, pairs = _asked()
    found = lm.loglikelihood(_ask("loglikelihood", *pairs), disable_tqdm=True)
    for (context, continuation), (logprob, greedy) in zip(pairs, found, strict=True):
        if context:
            before, wanted = lm._encode_pair(context, continuation)
        else:
            before, wanted = [lm.tokenizer.eos_id], lm.tok_encode(continuation)
        ids = torch.tensor([[*before, *wanted]])[:, -CONFIG.max_position - 1 :]
        with torch.no_grad():
            logits = model(ids[:, :-1]).logits[0, -len(wanted) :].double()
        logp = logits.log_softmax(-1)[torch.arange(len(wanted)), ids[0, -len(wanted) :]]
        assert logprob == pytest.approx(float(logp.sum()), abs=TOLERANCE)
        assert greedy is bool((logits.argmax(-1) == ids[0, -len(wanted) :]).all())


@pytest.fixture(scope="module")
def torch_lm(full):
    """The harness' own adapter of transformers on a directory without rows beyond the words."""
    pytest.importorskip("accelerate")
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=str(full), device="cpu", dtype="float32", batch_size=3)


@pytest.mark.interop
def test_all_three_answers_are_those_of_the_harness_own_adapter(full_lm, torch_lm):
    lm = full_lm
    texts, pairs = _asked()
    asked = _ask("loglikelihood", *pairs)
    ours, theirs = (model.loglikelihood(asked, disable_tqdm=True) for model in (lm, torch_lm))
    np.testing.assert_allclose([x for x, _ in ours], [x for x, _ in theirs], atol=TOLERANCE)
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]

    # No text that repeats itself: the other adapter takes equal windows for one, however split.
    asked = _ask("loglikelihood_rolling", *[(text,) for text in [*texts[:8], " ".join(texts)]])
    ours, theirs = (m.loglikelihood_rolling(asked, disable_tqdm=True) for m in (lm, torch_lm))
    # The longest text has hundreds of tokens, at some six nats each.
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=TOLERANCE)

    options = {"until": ["Question:", "2"], "max_gen_toks": 12}
    asked = _ask("generate_until", *[(text, options) for text in texts[:8]])
    ours, theirs = (model.generate_until(asked, disable_tqdm=True) for model in (lm, torch_lm))
    assert ours == theirs


@pytest.mark.interop
def test_tasks_have_the_same_results_under_transformers(full_lm, torch_lm, gsm8k, tasks):
    folder = tasks(gsm8k["test"])
    ours, theirs = (_evaluated(model, folder)["results"] for model in (full_lm, torch_lm))
    for name in NAMES:
        for metric, value in theirs[name].items():
            if isinstance(value, float):
                assert ours[name][metric] == pytest.approx(value, abs=TOLERANCE)
