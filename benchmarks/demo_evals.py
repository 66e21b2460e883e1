"""General365 generated, a small model that has learnt the seeds by heart, and a scripted judge.

    python benchmarks/demo_evals.py [--workdir=runs/demo-evals]

What `make demo-evals` runs. The model is trained here, for a minute, on the seeds' answers alone,
so that the report shows what a benchmark with variants is for: the gap between seeds and variants.
The judge is a rule behind the interface of a model; a real one is named in its place, as in
configs/eval_general365.py. A run that is stopped goes on when started again.
"""

import argparse
import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
from inspect_ai.model import ModelAPI, ModelOutput, ModelUsage, modelapi

from jaxlab.evals import harness
from jaxlab.evals.general365 import generate, grade
from jaxlab.evals.settings import Benchmark, Run, Sampling, Subject
from jaxlab.interop import hf
from jaxlab.models.decoder import Decoder
from jaxlab.models.sizes import Sizes
from jaxlab.text.tokenizer import train_bpe

SEEDS, STEPS = 32, 150


@modelapi(name="scripted")
class ScriptedJudge(ModelAPI):
    """Compares final answers word by word, and replies as a judge is asked to."""

    async def generate(self, input, tools, tool_choice, config):
        """A verdict on the response that the last message holds."""
        text = input[-1].text
        answer = re.search(r"Reference answer:\n(.*)", text)
        *_, response, _ = re.split(r"\n=====+(?:\n|$)", text)
        same = answer is not None and grade.same_words(answer[1], response)
        output = ModelOutput.from_content("scripted/judge", json.dumps({"accuracy": same}))
        tokens = len(text.split())
        output.usage = ModelUsage(input_tokens=tokens, output_tokens=1, total_tokens=tokens + 1)
        return output


def main() -> None:
    """Generate, train, evaluate."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/demo-evals"))
    workdir = parser.parse_args().workdir
    workdir.mkdir(parents=True, exist_ok=True)
    rows = workdir / "rows.jsonl"
    count = generate.write(rows, SEEDS, difficulty=1)
    print(f"{rows}: {count} problems, {SEEDS} seeds with three variants each")
    model = workdir / "model"
    if not (model / "config.json").exists():
        train([json.loads(line) for line in rows.read_text().splitlines()], model)
    run = Run(
        Subject(path=str(model)),
        Benchmark("general365", str(rows), options={"judge": "scripted/judge"}),
        Sampling(max_new_tokens=16, temperature=0.0, batch=32, prompt_multiple=64),
    )
    outcome = harness.evaluate(run, workdir)
    print((workdir / "report.md").read_text())
    print("\n".join(f"wrote {path}" for path in outcome.files))
    print(f"look at the transcripts with: inspect view --log-dir {workdir / 'logs'}")


def train(rows: list[dict], out: pathlib.Path) -> None:
    """Teach a small decoder the answers of the seeds, and write it as a HuggingFace directory."""
    tokenizer = train_bpe([f"{row['question']} {row['answer']}" for row in rows], 1024)
    pairs = [
        (tokenizer.encode(row["question"]), [*tokenizer.encode(row["answer"]), tokenizer.eos_id])
        for row in rows
        if row["variant"] == "seed"
    ]
    width = max(len(prompt) + len(answer) for prompt, answer in pairs)
    tokens = np.full((len(pairs), width), tokenizer.pad_id, np.int32)
    wanted = np.zeros((len(pairs), width), bool)
    for i, (prompt, answer) in enumerate(pairs):
        end = len(prompt) + len(answer)
        tokens[i, :end] = prompt + answer
        wanted[i, len(prompt) : end] = True
    config = Sizes(
        vocab_size=tokenizer.vocab_size,
        hidden_size=96,
        intermediate_size=256,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        max_position=1024,
    ).decoder()
    decoder = Decoder(config)
    params = decoder.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    optimizer = optax.adam(3e-3)

    def loss_of(params):
        logits = decoder.apply({"params": params}, tokens[:, :-1])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])
        return jnp.sum(losses * wanted[:, 1:]) / wanted.sum()

    @jax.jit
    def step(params, state):
        loss, gradient = jax.value_and_grad(loss_of)(params)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state, loss

    state = optimizer.init(params)
    for i in range(STEPS):
        params, state, loss = step(params, state)
        if i % 25 == 24:
            print(f"step {i + 1}: loss {loss:.3f}", flush=True)
    hf.save(out, config, params)
    tokenizer.save(out)


if __name__ == "__main__":
    main()
