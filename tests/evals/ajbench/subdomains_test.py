"""All sub-domains through the door, with their own environments; the run is killed once."""

import json
import pathlib
import shutil
import tempfile
import zipfile
from collections import Counter

import pytest

pytest.importorskip("inspect_ai")


from jaxlab.evals import results
from jaxlab.evals.ajbench import rows
from jaxlab.evals.ajbench.sandbox import marks
from jaxlab.evals.ajbench.types import SUBDOMAINS
from jaxlab.evals.ajbench.web import browser
from jaxlab.grading.rows import sample_seed
from tests.conftest import ROOT
from tests.evals.ajbench import gui_trees, layout, web_trees

HERE = pathlib.Path(__file__).parent
SAMPLES, BATCH = 1, 4


def make(folder):
    """src and states with two units of every sub-domain, and of two of our own."""
    layout.write(folder)
    gui_trees.make(folder / "src")
    web_trees.make(folder / "src", folder / "states" / "web")
    gui_trees.make_page(folder / "src", folder / "states")
    return folder


class Door:
    """Runs the door with the judge of `judging_program`, with a folder of its own for all else."""

    def __init__(self, forks, folder, base):
        self.forks = forks
        self.folder, self.workdir = folder, folder / "run"
        self.asked = folder / "asked.txt"
        self.tmp = pathlib.Path(tempfile.mkdtemp(dir=base))
        self.tmp.chmod(0o711)

    def __call__(self, answers=0):
        more = {"TMPDIR": str(self.tmp), "JAXLAB_TEST_ASKED": str(self.asked)}
        if answers:
            more["JAXLAB_TEST_ANSWERS"] = str(answers)
        values = {
            "model.name": "looking/judge",
            "benchmark.path": self.folder / "src",
            "benchmark.samples": SAMPLES,
            "benchmark.options.states": self.folder / "states",
            "eval.batch": BATCH,
        }
        return self.forks.run(
            HERE / "judging_program.py",
            "--config=configs/eval_ajbench.py",
            *(f"--config.{name}={value}" for name, value in values.items()),
            f"--workdir={self.workdir}",
            cwd=ROOT,
            **more,
        )

    def left(self):
        """What lies in the folder of runs."""
        return sorted(path.name for path in self.tmp.glob("jaxlab-ajbench-*/*"))

    def processes(self):
        """Programs that were started for a sample of this test and live."""
        found = []
        for entry in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                marked = f"{marks.MARK}={self.tmp}".encode() in (entry / "environ").read_bytes()
                alive = (entry / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
            except OSError:
                continue
            if marked and alive:
                found.append(entry.name)
        return found


@pytest.fixture(scope="module")
def finished(server, base, forks, tmp_path_factory):
    """A run that was killed in the middle and started again."""
    try:
        browser.program()
    except FileNotFoundError as error:
        pytest.skip(f"{error}")
    door = Door(forks, make(tmp_path_factory.mktemp("all")), base)
    done = door(answers=40)
    assert done.returncode == -9, done.stderr[-3000:]
    # It had no time to clean up.
    assert door.left() != []
    done = door()
    assert done.returncode == 0, done.stderr[-4000:]
    yield door
    shutil.rmtree(door.tmp)


def test_every_subdomain_is_judged_in_its_own_environment(finished):
    graded = results.read(finished.workdir / "samples.jsonl")
    assert all(result.correct for result in graded)
    assert {result.meta["subdomain"] for result in graded} == {*SUBDOMAINS, "DS-SQLite", "GUI-Page"}
    report = json.loads((finished.workdir / "report.json").read_text())
    assert report["facts"]["failed samples"] == 0
    tables = {table["title"]: table["rows"] for table in report["tables"]}
    assert [row["ability"] for row in tables["By ability"]] == [
        "information acquisition",
        "process verification",
        "state verification",
    ]
    replays = {result.meta["subdomain"]: result.meta["replay"] for result in graded}
    assert replays["GUI-Page"]["calls"] == 4
    assert (replays["GUI-Page"]["failed"], replays["GUI-Page"]["diverged"]) == (0, 0)
    # Their results are the final state.
    assert {replays[name]["calls"] for name in ("GUI-PPT", "GUI-Word", "GUI-Excel")} == {0}


def test_nothing_is_lost_and_nothing_counted_twice(finished):
    units = rows.read(finished.folder / "src").units
    wanted = Counter((unit.id, sample) for unit in units for sample in range(1, SAMPLES + 1))
    graded = results.read(finished.workdir / "samples.jsonl")
    assert Counter((result.id, result.sample) for result in graded) == wanted
    asked = [json.loads(line) for line in finished.asked.read_text().splitlines()]
    begun = Counter(seed for seed, role in asked if role == "user")
    assert set(begun) == {sample_seed(0, id, sample) for id, sample in wanted}
    # Only what was under way at the kill is asked again.
    assert 0 < begun.total() - len(begun) <= BATCH


def test_nothing_is_left(finished):
    assert finished.left() == []
    assert finished.processes() == []


def test_logs_hold_no_copy_of_all_trajectories(finished):
    (log,) = (header for header in headers(finished.workdir) if header["status"] == "success")
    (step,) = log["plan"]["steps"]
    # With the package's name in front where that is installed.
    assert step.pop("solver") in ("ajbench_judge", "jaxlab/ajbench_judge")
    assert step == {"params": {}, "params_passed": {}}
    assert len(json.dumps(log["eval"])) < 10_000


def headers(workdir):
    """What each log begins with."""
    for path in workdir.rglob("*.eval"):
        with zipfile.ZipFile(path) as archive:
            if "header.json" in archive.namelist():
                yield json.loads(archive.read("header.json"))
