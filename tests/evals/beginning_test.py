"""A beginning of sequence stands once before every prompt, in training and in every evaluation."""

import asyncio
import json
from concurrent.futures import Future

import numpy as np
import pytest
import tokenizers
from tokenizers import processors

from jaxlab.data import token_cache
from jaxlab.data.tasks.gsm8k import Gsm8k
from jaxlab.rollouts.batcher import Batcher, Reply
from jaxlab.rollouts.text import TextTask
from jaxlab.text.tokenizer import Tokenizer, load, train_bpe
from tests.evals import random_model

ROW = {"question": "how many?", "answer": "one.\n#### 1"}
BOS = "<s>"
# Whether the chat template writes the beginning itself.
TEMPLATES = {
    "written": "{{ bos_token }}{% for m in messages %}[{{ m.content }}]{% endfor %}",
    "not written": "{% for m in messages %}[{{ m.content }}]{% endfor %}",
}


@pytest.fixture(scope="module", params=[True, False], ids=["with", "without"])
def directory(request, tmp_path_factory):
    """A random model whose tokenizer's post-processor adds "<s>", or does not."""
    folder = random_model.save(tmp_path_factory.mktemp("model"))
    plain = train_bpe(["a b c 1 2 3"], 258, special_tokens=(BOS,))
    backend = tokenizers.Tokenizer.from_str(plain.backend.to_str())
    if request.param:
        tokens = [(BOS, plain.encode(BOS)[0])]
        backend.post_processor = processors.TemplateProcessing(f"{BOS} $A", special_tokens=tokens)
    Tokenizer(backend, {"eos_token": "<|endoftext|>", "bos_token": BOS}).save(folder)
    return folder


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(ROW) + "\n")
    return path


@pytest.fixture
def asked(monkeypatch):
    """The prompts that are decoded, without decoding them."""
    prompts = []

    def submit(self, prompt, sampling, seed):
        return submit_group(self, prompt, sampling, [seed], lambda replies: replies[0])

    def submit_group(self, prompt, sampling, seeds, made=list):
        prompts.append(list(prompt))
        future = Future()
        future.set_result(made([Reply([5], [0.0], True) for _ in seeds]))
        return future

    monkeypatch.setattr(Batcher, "submit", submit)
    monkeypatch.setattr(Batcher, "submit_group", submit_group)
    return prompts


def _expected(directory, text):
    tok = load(directory)
    return [*tok.prefix, *tok.encode(text.removeprefix(BOS))]


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_training_and_the_provider_read_the_same_prompts(directory, rows, asked, template):
    inspect_ai = pytest.importorskip("inspect_ai.model")
    from jaxlab.evals.provider import JaxlabAPI

    (directory / "chat_template.jinja").write_text(template)
    tok = load(directory)
    for chat in (False, True):
        text = TextTask(Gsm8k(rows, rows, prompt="{question}"), tok, chat=chat, max_prompt=40)
        example, prompt = text.prompt(0, "train")
        api = JaxlabAPI(str(directory), batch=1, chat=chat)
        message = inspect_ai.ChatMessageUser(content=ROW["question"])
        asyncio.run(api.generate([message], [], "none", inspect_ai.GenerateConfig()))
        api.close()
        written = chat and template == TEMPLATES["written"]
        expected = _expected(directory, f"[{ROW['question']}]" if chat else ROW["question"])
        if written and not tok.prefix:  # the template's own word
            expected = [tok.bos_id, *expected]
        assert prompt == asked.pop() == expected
        assert prompt.count(tok.bos_id) == (1 if written or tok.prefix else 0)
        # A completion begins nothing.
        assert tok.bos_id not in text.target(example)


def test_the_harness_reads_them_too(directory, asked, monkeypatch):
    pytest.importorskip("lm_eval")
    from lm_eval.api.instance import Instance

    from jaxlab.evals.lm_eval_adapter import JaxlabLM

    (directory / "chat_template.jinja").write_text(TEMPLATES["written"])
    lm = JaxlabLM(pretrained=str(directory), batch_size=1, multiple=16, max_gen_toks=4)
    tok, scored = lm.tokenizer, []
    monkeypatch.setattr(
        lm,
        "_likelihood",
        lambda pairs: scored.extend(pairs) or [(i, Score) for i in range(len(pairs))],
    )

    def ask(kind, *arguments):
        one = Instance(kind, {}, arguments, 0)
        getattr(lm, kind)([one], disable_tqdm=True)

    chat = lm.apply_chat_template([{"role": "user", "content": "a"}])
    for text, expected in (
        ("how many?", _expected(directory, "how many?")),
        (chat, [tok.bos_id, *tok.encode("[a]")]),
    ):
        ask("generate_until", text, {"until": []})
        assert asked.pop() == expected
        ask("loglikelihood", text, " one")
        assert scored.pop() == (expected, tok.encode(" one"))
    first = tok.bos_id  # which the tokenizer names, whoever writes it
    ask("loglikelihood", "", "one")
    assert scored.pop() == ([first], tok.encode("one"))
    ask("loglikelihood_rolling", "one")
    assert scored.pop() == ([first], tok.encode("one"))
    assert lm.tok_encode("a", add_special_tokens=False) == tok.encode("a")
    lm.settings = lm.settings.__class__(str(directory), add_bos_token=False)
    assert lm.tok_encode("a") == tok.encode("a")


class Score:
    """What no model says."""

    logprob, greedy = 0.0, True


def test_documents_begin_too(directory, tmp_path):
    tok = load(directory)
    documents = ["a b", f"{BOS} is text here"]
    part = token_cache.tokenise(documents, tok, tmp_path, "text")
    found = [ids.tolist() for ids in part.documents()]
    start, end = list(tok.prefix), [tok.eos_id]
    assert found[0] == [*start, *tok.encode("a b"), *end]
    assert found[1].count(tok.bos_id) == len(start)
    assert np.asarray(part.ids).dtype == np.uint16
