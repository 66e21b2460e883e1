"""Time and memory of on-policy distillation steps, beside TRL; and where the time goes.

    python benchmarks/training.py --trl-python=/path/to/bin/python --json=out.json

1. Whole steps (rollout, teacher, update, grading): a process for each contender and vocabulary,
   one step of each in turn, so that what else the machine does hits all of them. Medians, ratios
   of medians, CPU time of all threads, peak resident memory of each process. The peer is TRL's
   DistillationTrainer with the reverse KL over the full vocabulary; without an environment that
   has trl it is "not installed".
2. Pieces of our step, with the rate of model FLOPs (2 N per token forward, 6 N forward and
   backward, N without the embedding table, plus attention) as a share of the rate of one f32
   matmul of 2048 x 2048 x 2048 measured in between.

Before anything is timed, the losses are compared with float64 NumPy; what differs is not timed.
"""

import argparse
import contextlib
import datetime
import functools
import importlib.util
import json
import math
import os
import pathlib
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from jaxlab.runtime import host_memory  # noqa: E402

host_memory.keep_freed()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from jaxlab import config as config_lib  # noqa: E402
from jaxlab.losses import chunked_vocab, distillation  # noqa: E402
from jaxlab.losses.aggregate import per_token, summarise  # noqa: E402
from jaxlab.models.decoder import Decoder, DecoderConfig, unembedding  # noqa: E402
from jaxlab.rollouts.policy import Policy, Rollout, response_hidden  # noqa: E402
from jaxlab.runtime.mesh import make_mesh  # noqa: E402
from jaxlab.sampling import SamplingConfig  # noqa: E402
from jaxlab.trainers import distill, microbatch, optim, state  # noqa: E402

PEER = ROOT / "benchmarks" / "peers" / "trl_distillation.py"
PROMPT, NEW_TOKENS, PROMPTS, SAMPLES = 16, 48, 16, 8
# Rows whose forward and backward passes run at once.
MICROBATCH = 16
LOSSES = {"reverse_kl": {"name": "full_reverse_kl"}, "aopd": {"name": "aopd"}}


def sizes(width: int, layers: int, heads: int, vocab: int) -> dict[str, Any]:
    """Fields of a Qwen3-shaped decoder."""
    return {
        "vocab_size": vocab,
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_layers": layers,
        "num_heads": heads,
        "num_kv_heads": heads // 2,
        "max_position": 256,
    }


def work(vocab: int) -> dict[str, Any]:
    """What both contenders do at every step."""
    return {
        "student": sizes(128, 4, 4, vocab),
        "teacher": sizes(256, 6, 8, vocab),
        "prompts": PROMPTS,
        "samples": SAMPLES,
        "prompt": PROMPT,
        "new_tokens": NEW_TOKENS,
    }


# Whole steps ------------------------------------------------------------------------------------


def serve(vocab: int, loss: str) -> None:
    """Our contender: a step of `jaxlab.trainers.distill` for each line "go" on standard input."""
    shapes = work(vocab)
    addends = PROMPT - 1
    config = {
        "student": {"sizes": shapes["student"] | {"qk_norm": True}},
        "teacher": {"sizes": shapes["teacher"] | {"qk_norm": True}},
        # Words: the numbers, a name for each addend, "=", "#", and two special tokens.
        "data": {
            "task": "modsum",
            "options": {"modulus": vocab - addends - 4, "addends": addends},
            "num_train": 4096,
            "max_prompt": PROMPT,
        },
        "train": {"steps": 1000, "microbatch": MICROBATCH},
        "optim": {"learning_rate": 1e-4},
        "loss": LOSSES[loss],
        "rollout": {"prompts": PROMPTS, "samples": SAMPLES, "max_new_tokens": NEW_TOKENS},
    }
    with tempfile.TemporaryDirectory() as directory:
        program = distill.program(
            config_lib.build(distill.Distill, config), pathlib.Path(directory)
        )
        current = program.init()
        say({"versions": {"jax": jax.__version__, "jaxlab": "this tree"}})
        for step, line in enumerate(sys.stdin):
            if line.strip() != "go":
                break
            start, cpu_start = time.perf_counter(), time.process_time()
            output = program.step(current, step)
            current = output.state
            host = output.host_metrics()
            loss_value = float(output.metrics["loss"])
            jax.block_until_ready(current)
            row = {
                "seconds": time.perf_counter() - start,
                "cpu_seconds": time.process_time() - cpu_start,
                "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            }
            say(row | {"loss": loss_value, "tokens": host["tokens"]})


def say(row: dict[str, Any]) -> None:
    """One JSON line."""
    print(json.dumps(row), flush=True)


class Contender:
    """A process that runs a step when told to."""

    def __init__(self, name: str, command: list[str]):
        """Start it and wait until it is ready."""
        self.name = name
        environment = {key: x for key, x in os.environ.items() if key != "PYTHONPATH"}
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed in close)
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env=environment,
        )
        self.versions = self._read()["versions"]
        self.seconds: list[float] = []
        self.cpu_seconds: list[float] = []
        self.peak_mib = 0.0

    def step(self, counts: bool = True) -> None:
        """Run one step; the first compiles and does not count."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        row = self._read()
        self.peak_mib = row["peak_mib"]
        if counts:
            self.seconds.append(row["seconds"])
            self.cpu_seconds.append(row["cpu_seconds"])

    def close(self) -> None:
        """Let it end."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()
        self.errors.close()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.errors.seek(0)
            raise RuntimeError(f"{self.name} ended:\n{self.errors.read()[-2000:]}")
        return json.loads(line)


def whole_steps(vocab: int, losses: list[str], trl_python: str | None, steps: int) -> list[dict]:
    """One row per contender at this vocabulary; they take turns."""
    ours = [sys.executable, __file__, f"--vocab={vocab}"]
    commands = {f"jaxlab {loss}": [*ours, f"--serve={loss}"] for loss in losses}
    if trl_python is not None:
        commands["TRL reverse_kl"] = [trl_python, str(PEER), json.dumps(work(vocab))]
    contenders: list[Contender] = []
    try:
        for name, command in commands.items():
            contenders.append(Contender(name, command))
            contenders[-1].step(counts=False)
        for _ in range(steps):
            for contender in contenders:
                contender.step()
    finally:
        for contender in contenders:
            contender.close()
    return [
        {
            "vocab": vocab,
            "contender": contender.name,
            "median_s": statistics.median(contender.seconds),
            "fastest_s": min(contender.seconds),
            "median_cpu_s": statistics.median(contender.cpu_seconds),
            "peak_mib": contender.peak_mib,
            "versions": contender.versions,
        }
        for contender in contenders
    ]


def print_steps(rows: list[dict], has_peer: bool) -> None:
    """The rows of one vocabulary, and ratios to the peer."""
    peer = rows[-1] if has_peer else None
    for row in rows:
        line = (
            f"{row['vocab']:>7} {row['contender']:<20}{row['median_s']:>9.3f}"
            f"{row['fastest_s']:>9.3f}{row['median_cpu_s']:>9.3f}"
            f"{row['peak_mib']:>10.0f}"
        )
        if peer is not None and row is not peer:
            row["speed_ratio"] = peer["median_s"] / row["median_s"]
            row["memory_ratio"] = row["peak_mib"] / peer["peak_mib"]
            line += f"{row['speed_ratio']:>11.2f}x{row['memory_ratio']:>10.2f}"
        print(line, flush=True)
    if peer is None:
        print(f"{rows[0]['vocab']:>7} {'TRL reverse_kl':<20}{'not installed':>18}")


# Pieces -----------------------------------------------------------------------------------------


def matmul_params(params: Any) -> int:
    """N: entries of what every token is multiplied with; in the embedding it is looked up."""
    return sum(
        leaf.size
        for name, part in params.items()
        if name != "embed"
        for leaf in jax.tree.leaves(part)
    )


def pieces(vocab: int, repeats: int) -> list[dict]:
    """Median seconds of the parts of a step, in turn, and the rates of those with a FLOP count."""
    shapes = work(vocab)
    student, teacher = (
        Decoder(config_lib.build(DecoderConfig, shapes[name] | {"qk_norm": True}))
        for name in ("student", "teacher")
    )
    tokens = PROMPTS * SAMPLES * NEW_TOKENS
    prompts = jax.random.randint(jax.random.key(0), (PROMPTS, PROMPT), 2, vocab)
    student_params, teacher_params = (
        jax.jit(model.init)(jax.random.key(seed), prompts)["params"]
        for seed, model in enumerate((student, teacher))
    )
    sampling = SamplingConfig(max_new_tokens=NEW_TOKENS, stop_ids=(1,), num_samples=SAMPLES)
    policy = Policy(student, sampling, make_mesh({"data": -1}), pad_id=0)
    answer = functools.partial(policy, prompts=np.asarray(prompts).tolist(), key=jax.random.key(2))
    rollout = answer(student_params)
    optimizer = optim.make(optim.Optim(learning_rate=1e-4), 1000)
    # As the trainer does it: microbatches of whole groups of completions of one prompt.
    parts, group = PROMPTS * SAMPLES // MICROBATCH, math.gcd(MICROBATCH, SAMPLES)
    read = functools.partial(response_hidden, samples=group)

    @functools.partial(jax.jit, static_argnums=0)
    def forward(model: Decoder, params: Any, r: Rollout) -> jax.Array:
        return microbatch.over_parts(functools.partial(read, model, params), r, parts, group)

    student_hidden = forward(student, student_params, rollout)
    seen = forward(teacher, teacher_params, rollout)

    # Whatever is not an argument, XLA would compute once and for all while compiling.
    def loss(params: Any, batch: tuple[jax.Array, jax.Array, Rollout], teacher_params: Any) -> Any:
        hidden, seen, r = batch
        return chunked_vocab.distill(
            distillation.FullReverseKl(),
            hidden,
            unembedding(params),
            seen,
            unembedding(teacher_params),
            r.response,
            r.mask,
            denominator=PROMPTS * SAMPLES,
            summary=per_token,
        )

    def update(current: state.TrainState, seen: jax.Array, r: Rollout, teacher_params: Any) -> Any:
        def of_part(params: Any, part: tuple[jax.Array, Rollout]) -> Any:
            hidden = read(student, params, part[1])
            return loss(params, (hidden, *part), teacher_params)

        (value, stats), grads = microbatch.value_and_grad(
            of_part, current.params, (seen, r), parts, group
        )
        new = state.apply_gradients(current, grads, value, optimizer, False)[0]
        return new, summarise(value, stats, r.mask)

    def body_gradient(params: Any, cotangent: jax.Array, r: Rollout) -> Any:
        def of_part(params: Any, part: tuple[jax.Array, Rollout]) -> Any:
            return jnp.sum(read(student, params, part[1]) * part[0]), ()

        return microbatch.value_and_grad(of_part, params, (cotangent, r), parts, group)

    def loss_gradient(params: Any, batch: Any, teacher_params: Any) -> Any:
        def of_part(inputs: Any, part: Any) -> Any:
            return loss(inputs[0], (inputs[1], *part), teacher_params)

        return jax.grad(of_part, has_aux=True)((params, batch[0]), batch[1:])

    def optimize(current: state.TrainState) -> state.TrainState:
        grads = current.params
        return state.apply_gradients(current, grads, jnp.zeros(()), optimizer, False)[0]

    current = state.create(student_params, optimizer)
    square = jax.random.normal(jax.random.key(3), (2048, 2048))
    flops = functools.partial(model_flops, rollout=rollout)
    widths = student.config.hidden_size, teacher.config.hidden_size
    timed: dict[str, tuple[Callable[[], Any], float | None]] = {
        "matmul 2048^3": (bind(jnp.matmul, square, square), 2.0 * 2048**3),
        "rollout": (lambda: answer(student_params), None),
        "teacher forward": (
            functools.partial(forward, teacher, teacher_params, rollout),
            flops(teacher, teacher_params, backward=False, unembeds=False),
        ),
        "student update": (
            bind(update, current, seen, rollout, teacher_params),
            flops(student, student_params, backward=True, unembeds=True)
            + 2.0 * tokens * vocab * widths[1],
        ),
        "  body, forward": (
            functools.partial(forward, student, student_params, rollout),
            flops(student, student_params, backward=False, unembeds=False),
        ),
        "  body, gradient": (
            bind(body_gradient, student_params, student_hidden, rollout),
            flops(student, student_params, backward=True, unembeds=False),
        ),
        "  loss, gradient": (
            bind(loss_gradient, student_params, (student_hidden, seen, rollout), teacher_params),
            # The student's logits and their two gradients, and the teacher's logits.
            2.0 * tokens * vocab * (3 * widths[0] + widths[1]),
        ),
        "  optimizer": (bind(optimize, current), None),
    }
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for run, _ in timed.values():
        jax.block_until_ready(run())
    for _ in range(repeats):
        for name, (run, _) in timed.items():
            start = time.perf_counter()
            jax.block_until_ready(run())
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    peak = 2.0 * 2048**3 / medians["matmul 2048^3"]
    return [
        {
            "vocab": vocab,
            "piece": name,
            "median_s": medians[name],
            "gflops": None if flops is None else flops / medians[name] / 1e9,
            "share_of_matmul": None if flops is None else flops / medians[name] / peak,
        }
        for name, (_, flops) in timed.items()
    ]


def bind(function: Callable[..., Any], *args: Any) -> Callable[[], Any]:
    """The jitted function with these arguments."""
    return functools.partial(jax.jit(function), *args)


def model_flops(
    decoder: Decoder, params: Any, *, rollout: Rollout, backward: bool, unembeds: bool
) -> float:
    """2 N per token and the causal half of the attention, three times that with a backward pass.

    Only completion tokens are unembedded.
    """
    c = decoder.config
    rows, width = rollout.tokens.shape[0], rollout.prompt_width
    table = c.vocab_size * c.hidden_size
    # A prompt is read once for the completions of it that a microbatch has side by side.
    flops, first = 0.0, 0
    for count, length in ((rows / math.gcd(MICROBATCH, SAMPLES), width), (rows, NEW_TOKENS - 1)):
        seen = length * (first + (length + 1) / 2)
        attention = 4 * c.num_layers * c.num_heads * c.head_dim * seen
        flops += count * (2.0 * length * (matmul_params(params) - table) + attention)
        first += length
    if unembeds:
        flops += 2.0 * rows * rollout.response.shape[1] * table
    return 3.0 * flops if backward else flops


def print_pieces(rows: list[dict]) -> None:
    """One line per piece."""
    for row in rows:
        line = f"{row['vocab']:>7} {row['piece']:<20}{1e3 * row['median_s']:>10.1f}"
        if row["gflops"] is not None:
            line += f"{row['gflops']:>10.0f}{100 * row['share_of_matmul']:>9.0f} %"
        print(line, flush=True)


# Parity -----------------------------------------------------------------------------------------


def check_parity() -> None:
    """Raises an AssertionError unless the timed losses agree with float64 NumPy."""
    rng = np.random.default_rng(0)
    batch, length, vocab = 3, 5, 50
    student, student_table = rng.normal(size=(batch, length, 8)), rng.normal(size=(vocab, 8))
    teacher, teacher_table = rng.normal(size=(batch, length, 6)), rng.normal(size=(vocab, 6))
    tokens = rng.integers(vocab, size=(batch, length))
    mask = np.arange(length) < np.array([5, 3, 1])[:, None]
    log_s, log_t = _log_softmax(student @ student_table.T), _log_softmax(teacher @ teacher_table.T)
    reverse_kl = np.sum(np.exp(log_s) * (log_s - log_t), axis=-1)
    at_token = np.indices(tokens.shape)
    s_token, t_token = (x[at_token[0], at_token[1], tokens] for x in (log_s, log_t))
    top = np.argsort(-log_t, axis=-1)[..., :32]
    top_s, top_t = (np.take_along_axis(x, top, axis=-1) for x in (log_s, log_t))
    guided = np.sum(np.exp(top_t) * (top_t - top_s), axis=-1) / 32
    aopd = np.where(t_token <= s_token, guided, -(t_token - s_token) * s_token)
    arrays = [jnp.asarray(x, jnp.float32) for x in (student, student_table, teacher, teacher_table)]
    for method, losses in (
        (distillation.FullReverseKl(), reverse_kl),
        (distillation.Aopd(), aopd),
    ):
        wanted = np.mean([row[counts].mean() for row, counts in zip(losses, mask, strict=True)])
        loss, _ = chunked_vocab.distill(
            method, *arrays, jnp.asarray(tokens), jnp.asarray(mask), chunk_size=4
        )
        np.testing.assert_allclose(float(loss), wanted, rtol=2e-5, err_msg=repr(method))


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


# Command line -----------------------------------------------------------------------------------


def find_trl(given: str | None) -> str | None:
    """The interpreter that has trl: the one given, else this one, else None."""
    if given is not None:
        if not pathlib.Path(given).exists():
            raise SystemExit(f"error: --trl-python: there is no {given}")
        return given
    return sys.executable if importlib.util.find_spec("trl") else None


def cpu_name() -> str:
    """The processor's model, as the system names it."""
    path = pathlib.Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vocab", default="512,32768", help="vocabulary sizes")
    parser.add_argument("--loss", default=",".join(LOSSES), help="our losses")
    parser.add_argument("--steps", type=int, default=5, help="steps of each contender that count")
    parser.add_argument("--repeats", type=int, default=7, help="runs of each piece")
    parser.add_argument("--trl-python", help="interpreter of an environment with trl 1.16")
    parser.add_argument("--no-pieces", action="store_true", help="whole steps only")
    parser.add_argument("--no-steps", action="store_true", help="pieces only")
    parser.add_argument("--json", type=pathlib.Path, metavar="OUT", help="also write the rows here")
    parser.add_argument("--serve", choices=LOSSES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    vocabs = [int(vocab) for vocab in args.vocab.split(",")]
    losses = args.loss.split(",")
    for loss in losses:
        if loss not in LOSSES:
            parser.error(f"--loss={loss!r} is not one of {', '.join(LOSSES)}")
    if args.serve:
        serve(vocabs[0], args.serve)
        return
    trl_python = find_trl(args.trl_python)
    check_parity()
    load = os.getloadavg()[0]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    about = {
        "date": datetime.date.today().isoformat(),
        "cpu": cpu_name(),
        "cores": cores,
        "load": load,
        "jax": jax.__version__,
        "python": platform.python_version(),
    }
    print("  ".join(f"{key} {value}" for key, value in about.items()))
    print("Losses agree with float64 NumPy.")
    result: dict[str, Any] = {"about": about, "steps": [], "pieces": []}
    if not args.no_steps:
        print(
            f"\n{'vocab':>7} {'whole step':<20}{'median s':>9}{'best s':>9}{'CPU s':>9}"
            f"{'peak MiB':>10}{'speed':>12}{'memory':>10}"
        )
        for vocab in vocabs:
            rows = whole_steps(vocab, losses, trl_python, args.steps)
            print_steps(rows, trl_python is not None)
            result["steps"] += rows
    if not args.no_pieces:
        print(f"\n{'vocab':>7} {'piece':<20}{'median ms':>10}{'GFLOP/s':>10}{'of matmul':>11}")
        for vocab in vocabs:
            rows = pieces(vocab, args.repeats)
            print_pieces(rows)
            result["pieces"] += rows
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
