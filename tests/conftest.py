import contextlib
import fcntl
import gc
import importlib
import importlib.metadata
import io
import json
import logging
import os
import pathlib
import signal
import subprocess
import sys
import threading
import traceback

import pytest

from tests.forks import Forks

ROOT = pathlib.Path(__file__).parents[1]

# Until all tests are collected: importing makes objects that stay, and no garbage.
gc.disable()

# Triton reads this when it is imported, which any test that imports transformers may do first.
os.environ.setdefault("TRITON_INTERPRET", "1")
# JAX notes for every operation which lines of Python it comes from: a tenth of the time to lower.
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")

# Most of the time of the tests is XLA's: programs of tiny sizes that run for milliseconds. Compiled
# without optimisation they are ready in a third of it. Flags of your own win; devices other than
# the CPU (`make gpu-check`) keep their defaults.
QUICK = (
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_cpu_opt_preset=CPU_OPT_PRESET_FAST_COMPILE",
    "--xla_cpu_parallel_codegen_split_count=1",
)
if os.environ.get("JAX_PLATFORMS") == "cpu" or not importlib.metadata.entry_points(
    group="jax_plugins"
):
    os.environ["XLA_FLAGS"] = " ".join((*QUICK, os.environ.get("XLA_FLAGS", ""))).strip()


# Files whose single tests take longest. Begun last, one of them would keep a process busy after
# the others have nothing left to do.
LONG = (
    "colabs_test.py",
    "configs_test.py",
    "resume_test.py",
    "hybrid_run_test.py",
    "sequence_parallel_test.py",
    "sharding_test.py",
)


def pytest_collection_modifyitems(items):
    """Begin with the longest."""
    items.sort(key=lambda item: item.path.name not in LONG)


def pytest_collection_finish():
    """Leave what importing made, which stays, out of every later search for garbage.

    Tracing makes so many objects that the search is a tenth of its time.
    """
    gc.enable()
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


@pytest.fixture(scope="session", autouse=True)
def one_compiler_context_a_thread():
    """Every lowering loads the dialects of MLIR anew, which takes as long as all of XLA's work."""
    from jax._src.interpreters import mlir

    made, make = threading.local(), mlir.make_ir_context

    def context():
        if not hasattr(made, "context"):
            made.context = make()
        return made.context

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlir, "make_ir_context", context)
        yield


@pytest.fixture(autouse=True)
def no_lasting_log_handlers():
    """inspect_ai adds a handler to the root logger, which would print in all later tests."""
    before = logging.root.handlers[:]
    yield
    logging.root.handlers[:] = before


@pytest.fixture(scope="session")
def door():
    """As `door_process`, but in this process: without three seconds of imports for each call."""

    def run(name, *arguments):
        import jax
        from absl import logging as absl_logging
        from absl.testing import flagsaver

        from jaxlab.runtime import decode_devices, host_memory

        start = importlib.import_module(f"jaxlab.{name}").start
        jax.devices()  # what a program decides before JAX starts is decided
        out, err, root = io.StringIO(), io.StringIO(), logging.getLogger()
        levels = {log: log.level for log in (root, logging.getLogger("jaxlab"))}
        handlers, handler = root.handlers[:], absl_logging.get_absl_handler()
        stream, on_sigterm = handler.python_handler.stream, signal.getsignal(signal.SIGTERM)
        with (
            pytest.MonkeyPatch.context() as patch,
            flagsaver.flagsaver(),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            patch.setattr(sys, "argv", [f"jaxlab/{name}.py", *map(str, arguments)])
            patch.setattr(sys, "path", sys.path[:])
            # What belongs to a whole process stays as it is.
            patch.setattr(decode_devices, "_state", decode_devices._State())
            patch.setattr(host_memory, "keep_freed", lambda: False)
            patch.chdir(ROOT)
            handler.python_handler.stream = err
            if handler not in root.handlers:  # absl adds it for the first program alone
                root.addHandler(handler)
            try:
                start()
                code = 0
            except SystemExit as leaving:
                code = leaving.code or 0
            except Exception:
                traceback.print_exc()
                code = 1
            finally:
                signal.signal(signal.SIGTERM, on_sigterm)
                handler.python_handler.stream = stream
                root.handlers[:] = handlers
                for log, level in levels.items():
                    log.setLevel(level)
        return subprocess.CompletedProcess(name, code, out.getvalue(), err.getvalue())

    return run


@pytest.fixture(scope="session")
def forks():
    """Runs programs in processes that find imported what the doors and the harness import."""
    forks = Forks(
        *("jaxlab.exporting", "jaxlab.evals.report", "jaxlab.losses.methods.names"),
        *(f"jaxlab.trainers.{name}" for name in ("distill", "lm", "loop", "probe", "sft")),
        # The last two come with a process's first benchmark.
        *("jaxlab.evals.harness", "IPython", "matplotlib"),
    )
    yield forks
    forks.close()


@pytest.fixture(scope="session")
def door_process(forks):
    """Runs a door as a user does: door("train", "--workdir=DIR", ...) -> CompletedProcess."""

    def run(name, *arguments, **environment):
        return forks.run(f"jaxlab.{name}", *arguments, cwd=ROOT, **environment)

    return run


@pytest.fixture(scope="session")
def config():
    """A config by name and variant, as plain dicts."""

    def load(name, variant=""):
        return importlib.import_module(f"configs.{name}").get_config(variant).to_dict()

    return load


@pytest.fixture(scope="session")
def modsum_run(door_process, tmp_path_factory):
    """The work directory of configs/aopd_modsum.py:tiny, run through the door; only read it.

    The processes that share the tests share the run.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    workdir = shared / "modsum"
    with (shared / "modsum.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (workdir / "report.json").exists():
            flags = ("--config=configs/aopd_modsum.py:tiny", f"--workdir={workdir}")
            done = door_process("train", *flags)
            assert done.returncode == 0, done.stderr[-4000:]
    return workdir


@pytest.fixture(scope="session")
def gsm8k(tmp_path_factory):
    """The section `data` of a config: eight made-up rows and a tokenizer trained on them."""
    from jaxlab.text.tokenizer import train_bpe

    folder = tmp_path_factory.mktemp("gsm8k")
    rows = [
        {
            "question": f"Ann has {n} shells and finds as many. How many has she?",
            "answer": f"She has 2*{n}=<<2*{n}={2 * n}>>{2 * n}.\n#### {2 * n}",
        }
        for n in range(8)
    ]
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    train_bpe([row["question"] + row["answer"] for row in rows], 300).save(folder)
    return {"train": str(path), "test": str(path), "tokenizer": str(folder)}


@pytest.fixture(scope="session")
def real_data():
    """Path of a file of the real data; skips the test by name where it is absent."""
    default = ROOT.parent / "shared" / "data"
    root = pathlib.Path(os.environ.get("JAXLAB_DATA", default))

    def find(name: str) -> pathlib.Path:
        path = root / name
        if not path.exists():
            pytest.skip(f"{name} is not in {root}; set JAXLAB_DATA to a folder that holds it")
        return path

    return find
