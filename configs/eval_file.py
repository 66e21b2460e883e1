"""A benchmark of your own: a file with a task of inspect_ai (see docs/evaluation.md).

    python -m jaxlab.evaluate --config=configs/eval_file.py --workdir=runs/eval \\
        --config.model.path=MODEL --config.benchmark.name=FILE.py --config.benchmark.path=ROWS.jsonl

Variants: "tiny" (two rows, for tests).
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "") -> ConfigDict:
    """The evaluation; see the module's docstring for the variants."""
    if variant not in ("", "tiny"):
        raise ValueError(f"configs/eval_file.py has the variants tiny, not {variant!r}")
    tiny = variant == "tiny"
    config = ConfigDict({"seed": 0, "model": common.subject()})
    config.benchmark = common.benchmark(
        "FILE.py", samples=2 if tiny else 1, limit=2 if tiny else None
    )
    config.eval = common.answers(8 if tiny else 1024, batch=2 if tiny else 64)
    config.mesh = {}
    return config
