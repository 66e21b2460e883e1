import asyncio
import random
import shutil
import threading

import jax
import pytest

pytest.importorskip("inspect_ai")

from inspect_ai.model import (
    ChatMessageAssistant,
    ChatMessageTool,
    ChatMessageUser,
    ContentAudio,
    ContentData,
    ContentImage,
    ContentReasoning,
    ContentText,
    ContentVideo,
    GenerateConfig,
    get_model,
)
from inspect_ai.tool import ToolCall, ToolInfo

from jaxlab.config import ConfigError
from jaxlab.evals import harness, results
from jaxlab.evals.provider import JaxlabAPI
from jaxlab.evals.settings import Benchmark, Run, Sampling, Subject
from jaxlab.interop import hf
from tests.evals import random_model

PLAIN = GenerateConfig()


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A random model in HuggingFace's format, with a tokenizer of bytes."""
    folder = tmp_path_factory.mktemp("model")
    return random_model.save(folder, gain=2.0)


@pytest.fixture(scope="module")
def model(directory):
    return get_model(f"jaxlab/{directory}", batch=4, prompt_multiple=16, max_tokens=12)


def _ask(model, texts, concurrency=64, **options):
    async def run():
        limit = asyncio.Semaphore(concurrency)

        async def one(text):
            async with limit:
                return await model.generate(text, config=GenerateConfig(**options))

        return await asyncio.gather(*(one(text) for text in texts))

    return asyncio.run(run())


def _key(output):
    logprobs = output.choices[0].logprobs
    return output.completion, [entry.logprob for entry in logprobs.content]


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"seed": 3}], ids=["greedy", "seeded"])
def test_the_same_answers_at_any_concurrency_and_in_any_order(model, options):
    # Of two widths, which take turns.
    texts = [f"question {i} {'x' * (i % 2 * 12)}" for i in range(30)]
    found = []
    for concurrency in (1, 7, 30):
        order = random.Random(concurrency).sample(range(len(texts)), len(texts))
        outputs = _ask(model, [texts[i] for i in order], concurrency, logprobs=True, **options)
        keys = dict(zip(order, map(_key, outputs), strict=True))
        found.append([keys[i] for i in range(len(texts))])
    assert found[0] == found[1] == found[2]  # log-probabilities to the last bit
    assert len({completion for completion, _ in found[0]}) > 10


def test_one_seed_does_not_mean_one_draw_and_none_means_a_new_one(model):
    first = _ask(model, ["a"] * 6)
    assert len({output.completion for output in first}) > 1
    same = _ask(model, ["a"] * 6, seed=1)
    assert len({output.completion for output in same}) == 1


def test_an_evaluation_takes_the_checkpoint_that_is_there_now(directory, tmp_path):
    """A program that trains on must not be shown the answers of the model from before."""
    (tmp_path / "rows.jsonl").write_text('{"problem": "p", "answer": "1"}\n')
    run = Run(
        Subject(path=str(tmp_path / "model")),
        Benchmark("math", str(tmp_path / "rows.jsonl")),
        Sampling(max_new_tokens=12, temperature=0.0, batch=1, prompt_multiple=128),
    )
    found, before = [], set(threading.enumerate())
    for scale in (1.0, -1.0):
        config, params = hf.load(directory)
        hf.save(tmp_path / "model", config, jax.tree.map(lambda x, s=scale: s * x, params))
        for file in directory.glob("tokenizer*"):
            shutil.copy(file, tmp_path / "model")
        harness.evaluate(run, tmp_path / f"run{scale}")
        (result,) = results.read(tmp_path / f"run{scale}" / "samples.jsonl")
        found.append(result.completion)
        left = set(threading.enumerate()) - before
        assert not any(thread.name == "batcher" for thread in left)
    assert found[0] != found[1]


def test_usage_and_stop_reasons(model):
    (output,) = _ask(model, ["abcde"], temperature=0.0)
    assert (output.usage.input_tokens, output.usage.output_tokens) == (5, 12)
    assert output.usage.total_tokens == 17
    assert output.stop_reason == "max_tokens"
    # 256 - 250 leaves room for 6 of 12; 260 for none.
    (short, none) = _ask(model, ["x" * 250, "x" * 260], temperature=0.0)
    assert (short.usage.output_tokens, short.stop_reason) == (6, "model_length")
    assert (none.usage.output_tokens, none.stop_reason, none.completion) == (0, "model_length", "")


def test_choices_share_one_reading_of_the_prompt(directory, model):
    sharing = get_model(f"jaxlab/{directory}", memoize=False, batch=4, padding="power_of_two")
    (output,) = _ask(sharing, ["abcde"], seed=5, num_choices=3, max_tokens=9)
    sharing.api.close()
    assert sharing.api.prefilled == 5
    texts = [choice.message.text for choice in output.choices]
    assert len(set(texts)) == 3
    assert (output.usage.input_tokens, output.usage.output_tokens) == (5, 27)
    assert [one["tokens"] for one in output.metadata["choices"]] == [9, 9, 9]
    assert all(one["logprob"] < 0 for one in output.metadata["choices"])
    (alone,) = _ask(model, ["abcde"], seed=5, max_tokens=9)
    assert alone.completion == texts[0]


def test_stop_sequences_cut_text_tokens_and_logprobs(model):
    (whole,) = _ask(model, ["abc"], seed=5, logprobs=True)
    text = whole.completion
    place = len(text) // 2
    stop = text[place : place + 2]
    (cut,) = _ask(model, ["abc"], seed=5, logprobs=True, stop_seqs=[stop, "never"])
    assert cut.completion == text[: text.find(stop)]
    assert cut.stop_reason == "stop"
    assert cut.usage.output_tokens < whole.usage.output_tokens
    assert len(cut.choices[0].logprobs.content) == cut.usage.output_tokens
    longer = _key(whole)[1]
    assert longer[: cut.usage.output_tokens] == _key(cut)[1]


@pytest.mark.parametrize(
    "option",
    [{"num_choices": 0}, {"top_logprobs": 3}, {"logit_bias": {1: 2.0}}, {"presence_penalty": 1.0}],
)
def test_options_that_it_does_not_have_are_refused(directory, option):
    api = JaxlabAPI(str(directory), batch=1)
    ask = api.generate([ChatMessageUser(content="a")], [], "none", GenerateConfig(**option))
    with pytest.raises(ValueError, match=next(iter(option))):
        asyncio.run(ask)
    tool = ToolInfo(name="t", description="d")
    with pytest.raises(ValueError, match="no tool calls"):
        asyncio.run(api.generate([], [tool], "auto", GenerateConfig()))
    api.close()


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ([ContentText(text="a"), ContentImage(image="data:image/png;base64,")], "'image'"),
        ([ContentAudio(audio="a.wav", format="wav")], "'audio'"),
        ([ContentVideo(video="a.mp4", format="mp4")], "'video'"),
        ([ContentText(text="a"), ContentReasoning(reasoning="r")], "'reasoning'"),
        ([ContentData(data={"a": 1})], "'data'"),
    ],
)
def test_parts_that_are_no_text_are_refused_by_name(model, content, part):
    with pytest.raises(ValueError, match=f"the user has a part of type {part}"):
        asyncio.run(model.api.generate([ChatMessageUser(content=content)], [], "none", PLAIN))


def test_calls_of_tools_are_refused_and_parts_of_text_are_read(model):
    call = ToolCall(id="1", function="f", arguments={})
    for message in (
        ChatMessageAssistant(content="", tool_calls=[call]),
        ChatMessageTool(content="7", tool_call_id="1"),
    ):
        with pytest.raises(ValueError, match="no tool calls"):
            asyncio.run(model.api.generate([message], [], "none", PLAIN))
    parts = [ContentText(text="a"), ContentText(text="b")]
    assert model.api._render([ChatMessageUser(content=parts)]) == "a\nb"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"stop_seqs": [""]}, "stop_seqs has an empty string"),
        ({"stop_seqs": ["a", ""]}, "stop_seqs has an empty string"),
        ({"max_tokens": 0}, "max_tokens must be at least 1, not 0"),
    ],
)
def test_options_that_would_empty_every_reply_are_refused(model, option, message):
    with pytest.raises(ValueError, match=message):
        asyncio.run(model.api.generate([], [], "none", GenerateConfig(**option)))
    if "stop_seqs" in option:
        with pytest.raises(ValueError, match="stop has an empty string"):
            Sampling(stop=tuple(option["stop_seqs"]))


def test_bad_arguments_and_directories(directory, tmp_path):
    with pytest.raises(ConfigError, match="batchh"):
        JaxlabAPI(str(directory), batchh=1)
    with pytest.raises(ConfigError, match="holds neither a HuggingFace model"):
        JaxlabAPI(str(tmp_path))
    shutil.copy(directory / "config.json", tmp_path)
    with pytest.raises(ConfigError, match="has no tokenizer\\.json"):
        JaxlabAPI(str(tmp_path))


def test_chat_templates_are_used_where_there_is_one(directory, tmp_path):
    for file in directory.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
    (tmp_path / "chat_template.jinja").write_text(template)
    messages = [ChatMessageUser(content="hi")]
    for chat, expected in [(None, "<user>hi<assistant>"), (False, "hi")]:
        api = JaxlabAPI(str(tmp_path), batch=1, chat=chat)
        assert api._render(messages) == expected
        api.close()
