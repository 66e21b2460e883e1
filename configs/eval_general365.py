"""General365 (arXiv 2604.11778): accuracy, categories, and seeds against variants.

    python -m jaxlab.evaluate --config=configs/eval_general365.py --workdir=runs/general365 \\
        --config.model.path=MODEL --config.benchmark.path=rows.jsonl \\
        --config.benchmark.options.judge=openai/gpt-4.1

Rows are the public ones, or generated: python -m jaxlab.evals.general365 --out=rows.jsonl.
The published judge is GPT-4.1; without one, set benchmark.options.grader=rule. Sampling is not
published: these are the settings under which reasoning models are usually run.

The rule reads what stands in a box or behind "the answer is", as the released grader does;
`--config.benchmark.options.anchor=anywhere` takes the last expression too. subset (seed, variant,
an answer type, a category) and ids choose rows.

Rows in which categories, seeds and variants are called otherwise, or stand in the id:
`--config.benchmark.options.fields.seed_id=family`,
`--config.benchmark.options.id_pattern='(?P<seed>.*)-(?P<variant>.*)'`.

Variants: "demo" (generated rows by rule, a small model), "tiny" (two rows, for tests).
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import common


def get_config(variant: str = "") -> ConfigDict:
    """The evaluation; see the module's docstring for the variants."""
    if variant not in ("", "demo", "tiny"):
        raise ValueError(
            f"configs/eval_general365.py has the variants demo and tiny, not {variant!r}"
        )
    tiny, demo = variant == "tiny", variant == "demo"
    config = ConfigDict({"seed": 0, "model": common.subject()})
    config.benchmark = common.benchmark(
        "general365",
        samples=1,
        limit=2 if tiny else None,
        grader="rule" if tiny or demo else "cascade",
        judge=placeholder(str),
        judge_votes=1,
        prompt="bare",
        float_round="field",
        anchor="stated",
        fields=common.fields(
            "id",
            "question",
            "answer",
            "answer_type",
            "float_round",
            "categories",
            "seed_id",
            "variant",
        ),
        id_pattern=placeholder(str),
        subset="all",
        ids=(),
        truncated="graded",
        bad_rows="error",
    )
    config.eval = common.answers(8 if tiny else 16 if demo else 65_536, batch=2 if tiny else 64)
    config.mesh = {}
    return config
