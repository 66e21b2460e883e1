"""WebShop (Yao et al. 2022): any model shops for the panel's goals, without training.

    python -m jaxlab.evaluate --config=configs/eval_webshop.py --workdir=runs/webshop \\
        --config.model.path=MODEL

The panel is 200 goals in a shop of 1,000 made-up products; its digest is checked, and every answer
has a seed of its own goal. `benchmark.path` is "made_up", or a folder with WebShop's own files
(items_shuffle*.json, items_ins_v2*.json, items_human_ins.json), of which the first 500 goals in
WebShop's order, its test set, are asked for. A purchase has a reward from 0 to 1 and is a success
where it is 1. Of the panel scripted shoppers get 0 % (random), 9 % (first result), 69 % (attribute
matcher) and 100 % (oracle); see docs/webshop.md.

With a library of skills (Skill1) the policy writes a query, ranks what is found and shops with the
best: `library.path` is a saved one, which stays as it is, and `library.encoder.path` the sentence
encoder that it is searched by; see configs/eval_household.py. The paper's evaluation is frozen:
temperature 0.4, 15 steps, the last two steps in the prompt. Its numbers are of WebShop's own
products, and are no target for this panel.

Variants: "tiny" (two goals of four steps among fifty products, for tests).
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import common


def get_config(variant: str = "") -> ConfigDict:
    """The evaluation; see the module's docstring for the variants."""
    if variant not in ("", "tiny"):
        raise ValueError(f"configs/eval_webshop.py has the variants tiny, not {variant!r}")
    tiny = variant == "tiny"
    config = common.episodes("webshop", tiny, max_steps=15, products=placeholder(int))
    if tiny:
        config.benchmark.options.products = 50
    config.benchmark.path = "made_up"
    return config
