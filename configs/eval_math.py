"""MATH-500, AIME, AMC, HMMT, Minerva, OlympiadBench, SAT: avg@n, pass@k and maj@n.

    python -m jaxlab.evaluate --config=configs/eval_math.py --workdir=runs/eval \\
        --config.model.path=MODEL --config.benchmark.path=test.jsonl

Variants: "tiny" (two rows, for tests), "small" (128 rows, for a CPU).
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "") -> ConfigDict:
    """The evaluation; see the module's docstring for the variants."""
    if variant not in ("", "small", "tiny"):
        raise ValueError(f"configs/eval_math.py has the variants small and tiny, not {variant!r}")
    tiny, small = variant == "tiny", variant == "small"
    config = ConfigDict({"seed": 0, "model": common.subject()})
    config.benchmark = common.benchmark(
        "math",
        samples=2 if tiny else 16,
        limit=2 if tiny else 128 if small else None,
        prompt="boxed",
        ids=(),
        truncated="wrong",
        bad_rows="error",
    )
    config.eval = common.answers(8 if tiny else 512 if small else 4096, batch=2 if tiny else 64)
    config.mesh = {}
    return config
