"""All sub-domains through the door, with their own environments; the run is killed once."""

import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from urllib.parse import quote, urlencode

import pytest

pytest.importorskip("inspect_ai")

from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from jaxlab.evals import results
from jaxlab.evals.ajbench import rows
from jaxlab.evals.ajbench.databases import postgres_server
from jaxlab.evals.ajbench.sandbox import marks
from jaxlab.evals.ajbench.types import SUBDOMAINS
from jaxlab.evals.ajbench.web import browser
from jaxlab.evals.rows import sample_seed
from tests.conftest import ROOT
from tests.evals.ajbench import gui_trees, layout, web_trees

HERE = pathlib.Path(__file__).parent
SAMPLES, BATCH = 1, 4
PASSWORD = "Zu%21 geheim&/\\'"  # with signs that need quoting in a DSN


def make(folder):
    """src and states with two units of every sub-domain, and of two of our own."""
    layout.write(folder)
    gui_trees.make(folder / "src")
    web_trees.make(folder / "src", folder / "states" / "web")
    gui_trees.make_page(folder / "src", folder / "states")
    return folder


class Door:
    """Runs the door with the judge of `judging_program`, with a folder of its own for all else."""

    def __init__(self, folder, base):
        self.folder, self.workdir = folder, folder / "run"
        self.asked = folder / "asked.txt"
        self.tmp = pathlib.Path(tempfile.mkdtemp(dir=base))
        self.tmp.chmod(0o711)
        self.said = ""

    def __call__(self, *options, answers=0, **environment):
        path = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
        more = {"PYTHONPATH": path, "TMPDIR": str(self.tmp), "JAXLAB_TEST_ASKED": str(self.asked)}
        if answers:
            more["JAXLAB_TEST_ANSWERS"] = str(answers)
        values = {
            "model.name": "looking/judge",
            "benchmark.path": self.folder / "src",
            "benchmark.samples": SAMPLES,
            "benchmark.options.states": self.folder / "states",
            "eval.batch": BATCH,
        }
        done = subprocess.run(
            [
                sys.executable,
                str(HERE / "judging_program.py"),
                "--config=configs/eval_ajbench.py",
                *(f"--config.{name}={value}" for name, value in values.items()),
                f"--workdir={self.workdir}",
                *options,
            ],
            cwd=ROOT,
            env={**os.environ, **more, **environment},
            capture_output=True,
            text=True,
            timeout=300,
        )
        self.said += done.stdout + done.stderr
        return done

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

    def written(self):
        """Everything in the work directory, with what is inside of the logs."""
        content = [path.read_bytes() for path in self.workdir.rglob("*") if path.is_file()]
        for path in self.workdir.rglob("*.eval"):
            with zipfile.ZipFile(path) as archive:
                content += [archive.read(name) for name in archive.namelist()]
        return b"\n".join(content)


@pytest.fixture(scope="module")
def finished(server, base, tmp_path_factory):
    """A run that was killed in the middle and started again."""
    try:
        browser.program()
    except FileNotFoundError as error:
        pytest.skip(f"{error}")
    door = Door(make(tmp_path_factory.mktemp("all")), base)
    with admin(server) as dsn:
        before = databases(server)
        # Now as an option, which ends in config.json; then in the environment.
        done = door(f"--config.benchmark.options.dsn={dsn}", answers=40)
        assert done.returncode == -9, done.stderr[-3000:]
        # It had no time to clean up.
        assert door.left() != []
        assert databases(server) != before
        done = door(**{postgres_server.DSN: dsn})
        assert done.returncode == 0, done.stderr[-4000:]
        yield door, before
    shutil.rmtree(door.tmp)


@contextlib.contextmanager
def admin(server):
    """URL of a role that may make databases, with a password of its own."""
    name = "test_admin"
    with server._admin() as connection:
        statement = "CREATE ROLE {} SUPERUSER LOGIN PASSWORD {}"
        connection.execute(sql.SQL(statement).format(sql.Identifier(name), sql.Literal(PASSWORD)))
        fields = conninfo_to_dict(server._admin_info)
        place = urlencode({"host": fields["host"], "port": fields["port"]})
        yield f"postgresql://{name}:{quote(PASSWORD, safe='')}@/postgres?{place}"
        connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


def databases(server):
    """Names of databases and roles on the server."""
    with server._admin() as connection:
        found = connection.execute(
            "SELECT datname FROM pg_database UNION ALL SELECT rolname FROM pg_roles"
        )
        return sorted(name for (name,) in found.fetchall())


def test_every_subdomain_is_judged_in_its_own_environment(finished):
    finished, _ = finished
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
    finished, _ = finished
    units = rows.read(finished.folder / "src").units
    wanted = Counter((unit.id, sample) for unit in units for sample in range(1, SAMPLES + 1))
    graded = results.read(finished.workdir / "samples.jsonl")
    assert Counter((result.id, result.sample) for result in graded) == wanted
    asked = [json.loads(line) for line in finished.asked.read_text().splitlines()]
    begun = Counter(seed for seed, role in asked if role == "user")
    assert set(begun) == {sample_seed(0, id, sample) for id, sample in wanted}
    # Only what was under way at the kill is asked again.
    assert 0 < begun.total() - len(begun) <= BATCH


def test_nothing_is_left(finished, server):
    door, before = finished
    assert door.left() == []
    assert door.processes() == []
    assert databases(server) == before


def test_a_password_is_nowhere_written(finished):
    door, _ = finished
    shapes = [PASSWORD, quote(PASSWORD, safe=""), quote(PASSWORD)]
    shapes += [json.dumps(shape)[1:-1] for shape in shapes]
    content = door.written()
    assert b"looking/judge" in content
    for shape in shapes:
        assert shape.encode() not in content
        assert shape not in door.said
    options = json.loads((door.workdir / "config.json").read_text())["benchmark"]["options"]
    assert "user=test_admin" in options["dsn"]
    assert "dbname=postgres" in options["dsn"]
    # The logs hold no copy of all trajectories either.
    (log,) = (header for header in headers(door.workdir) if header["status"] == "success")
    (step,) = log["plan"]["steps"]
    # With the package's name in front where that is installed.
    assert step.pop("solver") in ("ajbench_judge", "jaxlab/ajbench_judge")
    assert step == {"params": {}, "params_passed": {}}
    assert len(json.dumps(log["eval"])) < 10_000
    assert "test_admin" not in json.dumps(log)


def headers(workdir):
    """What each log begins with."""
    for path in workdir.rglob("*.eval"):
        with zipfile.ZipFile(path) as archive:
            if "header.json" in archive.namelist():
                yield json.loads(archive.read("header.json"))
