"""Who may import whom: the table of the design, held against the source."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
# Every part may import these.
GROUND = {"config", "json_file", "ranges"}
FILES = "math general365 ajbench lary household webshop"
BENCHMARKS = {f"evals.{m}" for m in FILES.split()}
BOTTOM = {"jaxlab_kernels", "runtime", "text", "grading", "envs", "credit", "balance", "overrides"}

# Part -> the parts below it. Arrows are transitive. A name with a dot is a module, or a package,
# inside a room; one that has no line of its own follows its package's.
ARROWS = {
    "train": "doors exporting compiling trainers evals",
    "evaluate": "doors compiling evals trainers",
    "compiling": "doors evals trainers",
    **dict.fromkeys(("calibrate", "heavy"), "doors evals"),
    "teacher_logprobs": "doors trainers",
    "export": "doors exporting",
    "exporting": "interop",
    "doors": "overrides runtime",
    "trainers": "evals.loop evals.tokens evals.panel rollouts losses credit balance data interop",
    "trainers.think": "trainers evals.metrics",
    **dict.fromkeys(("trainers.encoders", "trainers.representation"), "trainers evals"),
    "trainers.probe": "trainers.encoders",
    "trainers.panel": "trainers.probe",
    "evals": "rollouts losses data grading",
    **dict.fromkeys(BENCHMARKS, "grading evals.played"),
    "evals.played": "evals.metrics evals.results evals.tables",
    # What inspect_ai calls of them; their other files work on text and numbers.
    **dict.fromkeys((f"{b}.{f}" for b in BENCHMARKS for f in ("task", "judges")), "evals"),
    **dict.fromkeys(("evals.results", "evals.tables"), "grading evals.metrics"),
    "rollouts": "sampling interop envs agents data",
    "sampling": "models",
    "interop": "models runtime text",
    "models": "nn",
    "nn": "jaxlab_kernels runtime.sharding",
    "data": "grading text",
    "agents": "text grading envs",
    "losses": "credit",
    **dict.fromkeys(BOTTOM | GROUND | {"evals.metrics"}, ""),
}

# Never each other, though they are of one room.
FILES = "sft lm distill agent probe think representation"
APART = ({f"trainers.{m}" for m in FILES.split()}, BENCHMARKS)
# These know benchmarks by name.
FILES = "tasks options harness compare features feature_data feature_store"
LISTS = {f"evals.{m}" for m in FILES.split()}

# Text and numbers without an array library, but for some modules.
NO_JAX = GROUND | {"text", "grading", "envs", "agents", "balance", "data", "evals", "overrides"}
FILES = "loop tokens likelihood lm_eval_adapter provider heavy.runs attentions"
WITH_JAX = {"balance.measure", *(f"evals.{m}" for m in FILES.split())}
# Library -> the only part that may import it; and what is of the checkout alone.
ONLY = {"orbax": "runtime.checkpoint", "inspect_ai": "evals", "lm_eval": "evals.lm_eval_adapter"}
ARRAYS = {"jax", "jaxlib", "flax", "optax", "orbax", "chex"}
OUTSIDE = {"configs", "launch", "tests", "kernels", "benchmarks", "colabs"}


def _sources():
    """Module name -> file; what is written into checkpoint directories is data here."""
    found = {}
    for root, package in ((ROOT, "jaxlab"), (ROOT / "kernels", "jaxlab_kernels")):
        for path in sorted((root / package).rglob("*.py")):
            name = ".".join(path.relative_to(root).with_suffix("").parts)
            if "remote_code" not in name and name != "jaxlab.__init__":
                found[name.removesuffix(".__init__").removeprefix("jaxlab.")] = path
    return found


def _imports(source):
    """Every absolute name that a module imports, also inside functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide what is imported"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _within(name, parts):
    """The longest of the parts in which a module lies, or None."""
    return max((p for p in parts if f"{name}.".startswith(f"{p}.")), key=len, default=None)


def _below(part):
    direct = ARROWS[_within(part, ARROWS)].split()
    return {*direct}.union(*map(_below, direct))


def faults(module, source):
    """What a module of this name imports against the table, as lines."""
    rule = _within(module, ARROWS)
    if rule is None:
        yield f"jaxlab.{module}: give it a line in ARROWS"
        return
    allowed = {rule, *GROUND, *_below(rule)}
    kin = next((kin for kin in APART if _within(module, kin)), set())
    knows = _within(module, BENCHMARKS | LISTS)
    for name in sorted(set(_imports(source))):
        top, _, rest = name.partition(".")
        ours = {"jaxlab": rest, "jaxlab_kernels": name}.get(top, "")
        wrong = {
            "it is not installed": top in OUTSIDE,
            f"only {ONLY.get(top)} may": top in ONLY and not _within(module, {ONLY[top]}),
            "without jax": top in ARRAYS and _within(module, NO_JAX) and module not in WITH_JAX,
            "kernels know jax alone": rule == "jaxlab_kernels" and top in ("flax", "optax"),
            f"{rule} may import {sorted(allowed)}": ours and not _within(ours, allowed),
            "it is beside it": _within(ours, kin) not in (None, _within(module, kin)),
            "it names a benchmark": _within(ours, BENCHMARKS) and not knows,
        }
        yield from (f"{module} imports {name}: {why}" for why, found in wrong.items() if found)


def test_imports_follow_the_table():
    found = (faults(name, path.read_text()) for name, path in _sources().items())
    assert [line for lines in found for line in lines] == []
    configs = [path.read_text() for path in (ROOT / "configs").glob("*.py")]
    tops = {name.split(".")[0] for source in configs for name in _imports(source)}
    assert tops <= {"ml_collections", "configs"}


def test_no_arrow_leads_back():
    rooms = {part: {name.split(".")[0] for name in _below(part)} for part in ARROWS}
    assert [part for part in rooms if "." not in part and part in rooms[part]] == []


SEEN = [
    ("losses.opd", "def f():\n    import jaxlab.models.decoder", "losses may import"),
    ("trainers.sft", "from jaxlab.trainers import distill", "beside it"),
    ("trainers.loop", "from jaxlab.evals import metrics", "trainers may import"),
    ("evals.math.task", "from jaxlab.evals.ajbench import rows", "beside it"),
    ("evals.report", "from jaxlab.evals.math import metrics", "names a benchmark"),
    ("nn.attention", "from jaxlab.runtime import mesh", "nn may import"),
    ("trainers.state", "import orbax.checkpoint", "only runtime.checkpoint"),
    ("grading.graders", "import jax.numpy as jnp", "without jax"),
    ("trainers.loop", "from inspect_ai import Task", "only evals may"),
    ("runtime.mesh", "import kernels", "not installed"),
    ("novel.thing", "import os", "give it a line"),
]


@pytest.mark.parametrize(("module", "source", "fault"), SEEN)
def test_the_test_sees(module, source, fault):
    assert any(fault in line for line in faults(module, source))
