"""Who may import whom: the table of the design, held against the source."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]

# What a benchmark is made of: plain functions.
PLAIN_BENCHMARK = {"config", "evals.metrics", "evals.results", "evals.tables", "grading"}

# What every part of jaxlab may import.
GROUND = {"json_file", "ranges"}

# Part -> the parts of jaxlab that it may import, beside itself. A name with a dot is one module of
# its package; modules that have no line of their own follow their package's.
ALLOWED = {
    "jaxlab_kernels": set(),
    "json_file": set(),
    "ranges": set(),
    "text": set(),
    "grading": set(),
    "config": set(),
    "runtime": set(),
    "overrides": {"config"},
    "doors": {"config", "overrides", "runtime"},
    "nn": {"jaxlab_kernels", "runtime.sharding"},
    "models": {"nn"},
    "sampling": {"models", "nn"},
    "losses": set(),
    "credit": set(),
    "interop": {"config", "models", "nn", "runtime", "text"},
    "data": {"grading"},
    "data.text": {
        "data.packing",
        "data.tasks.tokens",
        "data.tasks.types",
        "data.token_cache",
        "grading",
        "text",
    },
    "data.token_cache": {"text"},
    "data.tasks": {"grading"},
    "data.tasks.modsum": {"data.tasks.types", "text"},
    "data.tasks.gsm8k": {"data.tasks.types", "grading"},
    "envs": set(),
    "agents": set(),
    "rollouts": {"sampling", "interop", "envs", "agents", "data", "models", "runtime", "text"},
    "evals": {"config", "rollouts", "envs", "grading"},
    "evals.metrics": set(),
    "evals.report": {"evals.figures", "evals.repeats", "evals.sweeps"},
    "evals.repeats": set(),
    "evals.sweeps": {"evals.figures"},
    "evals.figures": set(),
    "evals.tokens": {"data.tasks", "losses", "models", "runtime"},
    "evals.results": {"grading"},
    "evals.tables": {"evals.metrics"},
    "evals.math": PLAIN_BENCHMARK,
    "evals.general365": PLAIN_BENCHMARK,
    "evals.ajbench": PLAIN_BENCHMARK,
    # What inspect_ai calls.
    "evals.task_parts": {"evals.grader_errors", "evals.options", "grading"},
    "evals.ajbench.task": PLAIN_BENCHMARK | {"evals.ajbench", "evals.options"},
    "evals.math.task": {"config", "evals", "grading"},
    "evals.general365.task": {"config", "evals", "grading"},
    "evals.settings": {"config", "evals.options", "runtime.settings"},
    "evals.options": {"config", "evals.ajbench", "evals.general365", "evals.math"},
    "evals.compare": {
        "config",
        "evals.ajbench",
        "evals.metrics",
        "evals.results",
        "evals.tables",
    },
    "evals.benchmark_report": {"evals.metrics", "evals.figures", "evals.results", "evals.tables"},
    # What inspect_ai calls: the tasks, the models, and a run of both.
    "evals.tasks": {"config", "evals", "grading"},
    "evals.harness": {"config", "evals", "grading", "runtime.workdir"},
    "evals.logs": {"config", "evals.fingerprint", "evals.options", "evals.settings"},
    "evals.fingerprint": set(),
    "evals.progress": set(),
    "evals.provider": {
        "config",
        "grading",
        "interop",
        "models",
        "rollouts",
        "runtime",
        "sampling",
        "text",
    },
    # What the lm-evaluation-harness calls.
    "evals.likelihood": {"losses", "models", "runtime"},
    "evals.lm_eval_adapter": {
        "config",
        "evals.likelihood",
        "grading",
        "interop",
        "models",
        "rollouts",
        "runtime",
        "sampling",
        "text",
    },
    "evals.loop": {
        "evals.metrics",
        "rollouts",
        "sampling",
        "losses",
        "models",
        "data.tasks",
        "runtime",
    },
    "balance": set(),
    "trainers": {
        "config",
        "rollouts",
        "losses",
        "credit",
        "balance",
        "data",
        "runtime",
        "models",
        "interop",
        "evals.loop",
        "evals.tokens",
        "sampling",
        "text",
    },
    "exporting": {"config", "interop", "models", "runtime"},
    "train": {"config", "doors", "exporting", "trainers", "evals", "interop", "runtime"},
    "evaluate": {"config", "doors", "trainers", "evals", "interop", "runtime", "models"},
    "export": {"doors", "exporting", "interop", "runtime"},
}

# Trainers share modules, but none imports another.
TRAINERS = {"sft", "lm", "distill", "agent"}

# Parts that work on text and numbers: no array library comes with them.
WITHOUT_JAX = (
    "data.tasks",
    "data.sources",
    "data.index",
    "data.packing",
    "data.text",
    "data.token_cache",
    "envs",
    "agents",
    "json_file",
    "text",
    "grading",
    "evals.metrics",
    "evals.report",
    "evals.repeats",
    "evals.sweeps",
    "evals.figures",
    "evals.results",
    "evals.tables",
    "evals.settings",
    "evals.options",
    "evals.compare",
    "evals.fingerprint",
    "evals.benchmark_report",
    "evals.math",
    "evals.general365",
    "evals.ajbench",
    "config",
    "runtime.workdir",
    "ranges",
)
ARRAY_LIBRARIES = {"jax", "jaxlib", "flax", "optax", "orbax", "chex"}

# Harnesses are extras: only what they call imports them. Module -> harness.
HARNESSES = {
    "inspect_ai": ("evals",),
    "lm_eval": ("evals.lm_eval_adapter",),
}

# Of the checkout, and of no installed package.
OUTSIDE = {"configs", "launch", "tests", "kernels", "benchmarks", "colabs"}


def _sources():
    packages = (ROOT / "jaxlab", ROOT / "kernels" / "jaxlab_kernels")
    files = sorted(path for package in packages for path in package.rglob("*.py"))
    # What is written into checkpoint directories is data here.
    return [path for path in files if path.parent.name != "remote_code"]


def _module(path):
    """'data.tasks.gsm8k' for jaxlab/data/tasks/gsm8k.py, 'jaxlab_kernels.x' for a kernel's."""
    base = ROOT if path.is_relative_to(ROOT / "jaxlab") else ROOT / "kernels"
    parts = path.relative_to(base).with_suffix("").parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    return ".".join(parts[1:] if parts[0] == "jaxlab" else parts)


def _imports(tree):
    """Every absolute name that a module imports, also inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide what is imported"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _ours(name):
    """'losses.chunked_vocab' for an import of ours, None for another."""
    head, _, rest = name.partition(".")
    if head == "jaxlab_kernels":
        return name
    return rest if head == "jaxlab" and rest else None


def _within(name, part):
    return name == part or name.startswith(f"{part}.")


def _rule(module):
    """The most particular line of the table for a module."""
    matching = [part for part in ALLOWED if _within(module, part)]
    return max(matching, key=len, default=None)


def faults(module, source):
    """What a module of this name imports against the table, as lines."""
    names = sorted(set(_imports(ast.parse(source))))
    rule = _rule(module)
    if module and rule is None:
        return [f"jaxlab.{module}: give it a line in ALLOWED"]
    found = []
    for name in names:
        top = name.partition(".")[0]
        ours = _ours(name)
        if top in OUTSIDE:
            found.append(f"{module} imports {name}, which is not installed")
        if top == "orbax" and module != "runtime.checkpoint":
            found.append(f"{module} imports orbax; only runtime.checkpoint may")
        if top in ARRAY_LIBRARIES and any(_within(module, part) for part in WITHOUT_JAX):
            found.append(f"{module} imports {name}; it is to work without jax")
        if top in HARNESSES and not any(_within(module, part) for part in HARNESSES[top]):
            found.append(f"{module} imports {top}; only {', '.join(HARNESSES[top])} may")
        if _within(module, "jaxlab_kernels") and top in ("jaxlab", "flax", "optax"):
            found.append(f"{module} imports {name}; kernels depend on jax alone")
        if ours is None or rule is None:
            continue
        if not any(_within(ours, part) for part in {rule, *GROUND, *ALLOWED[rule]}):
            found.append(f"{module} imports {ours}; {rule} may import {sorted(ALLOWED[rule])}")
        head, _, trainer = module.partition(".")
        other = ours.removeprefix("trainers.").partition(".")[0]
        if head == "trainers" and trainer in TRAINERS and other in TRAINERS - {trainer}:
            found.append(f"{module} imports another trainer, {ours}")
    return found


@pytest.mark.parametrize("path", _sources(), ids=_module)
def test_imports_follow_the_table(path):
    assert faults(_module(path), path.read_text()) == []


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.py")), ids=lambda p: p.stem)
def test_configs_import_ml_collections_and_each_other(path):
    tops = {name.partition(".")[0] for name in _imports(ast.parse(path.read_text()))}
    assert tops <= {"ml_collections", "configs"}


@pytest.mark.parametrize(
    ("module", "source", "fault"),
    [
        ("losses.opd", "from jaxlab.models import decoder", "losses may import"),
        ("losses.opd", "def f():\n    import jaxlab.models.decoder", "losses may import"),
        ("trainers.sft", "from jaxlab.trainers import distill", "another trainer"),
        ("trainers.loop", "from jaxlab.evals import metrics", "trainers may import"),
        ("evals.provider", "from jaxlab.trainers import setup", "evals.provider may import"),
        ("nn.attention", "from jaxlab.runtime import mesh", "nn may import"),
        ("trainers.state", "import orbax.checkpoint", "only runtime.checkpoint"),
        ("data.tasks.math", "import jax.numpy as jnp", "without jax"),
        ("text.tokenizer", "from jaxlab.interop import hf", "text may import"),
        ("jaxlab_kernels.delta_rule.api", "import flax.linen", "kernels depend on jax"),
        ("jaxlab_kernels.delta_rule.api", "from jaxlab.nn import rope", "kernels depend on jax"),
        ("evaluate", "import lm_eval", "only evals.lm_eval_adapter may"),
        ("trainers.loop", "from inspect_ai import Task", "only evals may"),
        ("runtime.mesh", "import configs.common", "not installed"),
        ("runtime.mesh", "import kernels", "not installed"),
        ("novel.thing", "import os", "give it a line"),
    ],
)
def test_the_test_sees(module, source, fault):
    assert any(fault in line for line in faults(module, source))


def test_the_test_lets_pass():
    assert faults("losses.opd", "import jax\nfrom jaxlab.losses import divergences") == []
    assert faults("trainers.sft", "from jaxlab.trainers import loop, optim") == []
    assert faults("jaxlab_kernels.common", "from jaxlab_kernels.dispatch import pick") == []


def test_parts_without_jax_load_without_jax():
    """Nothing that they import brings it in either."""
    modules = [m for m in map(_module, _sources()) if any(_within(m, p) for p in WITHOUT_JAX)]
    program = "import importlib, sys\n" + "".join(
        f"importlib.import_module('jaxlab.{name}')\n" for name in modules
    )
    program += "print(*sorted({'jax', 'flax', 'optax', 'orbax'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []
