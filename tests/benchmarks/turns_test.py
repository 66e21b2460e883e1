"""Contenders in processes of their own, and which of their turns count."""

import ast
import functools
import pathlib
import sys

import pytest

from benchmarks.peers import turns

PEERS = pathlib.Path(turns.__file__).parent
Turn = turns.Turn
SERVE = "import sys, time; sys.path.insert(0, sys.argv[1]); import turns; "


def contender(name, program, **more):
    return turns.Contender(name, [sys.executable, "-c", SERVE + program, str(PEERS)], **more)


@pytest.mark.parametrize(
    ("turn", "reason"),
    [
        (Turn(1.0, 1.0), None),
        (Turn(1.0, 1.9, 0.0, cores=2), None),
        # One of two threads ran while the other one waited for a core: nobody stood still.
        (Turn(1.0, 0.85), None),
        (Turn(1.0, 0.3), "computed for 0.30 s of 1.00 s"),
        (Turn(1.0, 1.9, 0.1, cores=2), None),
        (Turn(1.0, 1.0, 1.0, cores=2), "took 50% of the cores"),
        # The same on a machine with cores to spare.
        (Turn(1.0, 1.0, 1.0, cores=16), None),
        # Two steps of the system's clock are no disturbance of a short turn.
        (Turn(0.05, 0.04, 0.02, cores=1), None),
        (Turn(0.02, 0.0), None),
    ],
)
def test_a_turn_is_disturbed_by_standing_still_and_by_other_programs(turn, reason):
    assert (turn.disturbance is None) == (reason is None)
    assert reason is None or reason in turn.disturbance


def test_a_peer_that_sleeps_is_disturbed_and_not_slow():
    with contender("sleeper", "turns.serve(lambda **_: time.sleep(0.1), {'sleep': '1'})") as peer:
        found = turns.alternate({"sleeper": peer.ask}, repeats=1, most=2, pause=0.0)["sleeper"]
        assert peer.versions == {"sleep": "1"}
    assert len(found) == 2
    assert all(turn.seconds >= 0.1 and turn.cpu_seconds < 0.05 for turn in found)
    short = turns.summary(found)
    assert short.seconds is None
    assert "disturbed in all 2 turns" in str(short)
    assert turns.ratio(found, found) is None


def test_turns_alternate_and_get_the_request(tmp_path, monkeypatch):
    log = tmp_path / "log"
    note = (
        f"lambda word, name=%r: print('to stderr') or "
        f"open({str(log)!r}, 'a').write(name + word + ' ') and {{'w': word}}"
    )
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads = "import os; assert 'OMP_NUM_THREADS' not in os.environ; "
    with (
        contender("a", f"{threads}turns.serve({note % 'a'}, {{}})") as a,
        contender("b", f"turns.serve({note % 'b'}, {{}})") as b,
    ):
        calls = {side.name: functools.partial(side.ask, word="!") for side in (a, b)}
        found = turns.alternate(calls, repeats=5, most=2, pause=0.0)
    assert log.read_text().split() == ["a!", "b!"] * 3  # the first of each is not counted
    assert [turn.reply for turn in found["b"]] == [{"w": "!"}] * 2


def test_alternation_ends_with_enough_undisturbed_turns():
    first, calm, late = Turn(9.0, 9.0), Turn(1.0, 1.0), Turn(4.0, 1.0)
    ours, theirs = iter([first, calm, late, calm, calm]), iter([first, *[Turn(3.0, 3.0)] * 4])
    calls = {"ours": lambda: next(ours), "theirs": lambda: next(theirs)}
    found = turns.alternate(calls, repeats=2, pause=0.0)
    assert [len(each) for each in found.values()] == [3, 3]
    short = turns.summary(found["ours"])
    assert (short.seconds, short.count, short.disturbed) == (1.0, 3, 1)
    assert turns.ratio(found["theirs"], found["ours"]) == 3.0


@pytest.mark.parametrize("program", ["sys.exit('no such model')", "turns.serve(lambda: 1 / 0, {})"])
def test_a_peer_that_ends_says_why(program):
    with (
        pytest.raises(
            RuntimeError, match=r"peer ended with code 1:[\s\S]*(no such model|division)"
        ),
        contender("peer", program) as peer,
    ):
        peer.ask()


def _imported(path):
    """Top-level names of all packages that a file imports, wherever it does."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    return {name.partition(".")[0] for name in names}


def test_a_contender_has_one_framework_and_the_benchmark_none():
    jax, torch = {"jax", "jaxlab", "jaxlab_kernels", "flax"}, {"torch", "transformers", "trl"}
    for path in PEERS.glob("*.py"):
        imported = _imported(path)
        assert not (imported & jax and imported & torch), path.name
    for name in ("decoding", "kernels", "loss", "provider", "training"):
        assert not _imported(PEERS.parent / f"{name}.py") & (jax | torch), name
