import itertools
import json
import math
import pathlib
import random
import sqlite3
import subprocess
import sys

import numpy as np
import pytest

from jaxlab.agents import skill_files, skill_library
from jaxlab.agents.skill_encoders import HashedProjection, TfIdf
from jaxlab.agents.skill_library import Episode, Library, LibraryError, Skill, SkillLibrary

ROOT = pathlib.Path(__file__).parents[2]
WORDS = [f"word{i}" for i in range(60)]


def skill(name, description="", task=""):
    return Skill(f"do {name}", description or f"when {name}", task)


def filled(path, names, options=None, **library):
    made = SkillLibrary(path, options=options, **library)
    made.learn(0, [Episode(1.0, skill=skill(name)) for name in names])
    return made


def numbers(library):
    return {e.id: (e.utility, e.selections, e.updates, e.used) for e in library.entries()}


def test_a_step_by_hand(tmp_path):
    """U <- 0.95 U + 0.05 r in the episodes' order; selections and updates are counted apart."""
    with filled(tmp_path, "abc") as library:
        counts = library.learn(
            7,
            [
                Episode(1.0, (1, 2), 2, skill("d")),
                Episode(0.0, (2, 2, 3), 3, skill("e")),
                Episode(0.0, (), None, None),
            ],
        )
        assert {k: v for k, v in counts.items() if v} == {
            "updated": 4,
            "selected": 2,
            "admitted": 1,
            "refused": 1,
            "unparsed": 1,
        }
        found = numbers(library)
        assert found[1] == (pytest.approx(0.525), 0, 1, 7)
        assert found[2] == (pytest.approx(0.95 * 0.525), 1, 2, 7)
        assert found[3] == (pytest.approx(0.475), 1, 1, 7)
        assert found[4] == (0.5, 0, 0, 7)
        assert [e.skill.strategy for e in library.entries()] == ["do a", "do b", "do c", "do d"]


def test_only_the_selected_one_is_updated_where_that_is_asked_for(tmp_path):
    with filled(tmp_path, "ab", Library(update="selected")) as library:
        library.learn(1, [Episode(1.0, (1, 2), 2), Episode(1.0, (1, 2), None)])
        assert numbers(library) == {1: (0.5, 0, 0, 0), 2: (pytest.approx(0.525), 1, 1, 1)}


@pytest.mark.parametrize(("initial", "utility"), [("half", 0.5), ("outcome", 1), ("group", 0.25)])
def test_the_utility_that_a_skill_begins_with(tmp_path, initial, utility):
    with SkillLibrary(tmp_path, options=Library(initial=initial)) as library:
        library.learn(0, [Episode(1.0, skill=skill("a"), group_mean=0.25)])
        assert library.entries()[0].utility == utility


@pytest.mark.parametrize(
    ("admit", "kept"),
    [("success", ["do won"]), ("always", ["do won", "do half", "do lost"]), ("gain", ["do half"])],
)
def test_which_skills_are_admitted(tmp_path, admit, kept):
    """The candidate's utility before the step, 0.5, is what a gain is measured against."""
    with filled(tmp_path, "a", Library(admit="success")) as library:
        library.learn(1, [Episode(1.0, (1,))] * 30)
        utility = library.entries()[0].utility
    assert 0.85 < utility < 0.95
    with SkillLibrary(tmp_path, options=Library(admit=admit)) as library:
        library.learn(
            2,
            [
                Episode(1.0, skill=skill("won"))
                if admit != "gain"
                else Episode(0.86, (1,), 1, skill("no")),
                Episode(0.9 if admit == "gain" else 0.5, (1,), 1, skill("half")),
                Episode(0.0, (1,), 1, skill("lost")),
            ],
        )
        assert [e.skill.strategy for e in library.entries()][1:] == kept


def by_hand(library, queries, greedy):
    """Scores by loops in float64: w cos + (1 - w) (U + c sqrt(ln N / n))."""
    options, entries = library.options, library.entries()
    embedded = library.encoder([e.skill.description for e in entries]).astype(np.float64)
    tried = [
        max(e.selections if options.counts == "selections" else e.updates + 1, 1) for e in entries
    ]
    found = []
    for row in library.encoder(queries).astype(np.float64):
        scored = []
        for entry, vector, n in zip(entries, embedded, tried, strict=True):
            cosine = float(row @ vector)
            if options.floor is not None and cosine < options.floor:
                continue
            bonus = 0 if greedy else options.ucb * math.sqrt(math.log(sum(tried)) / n)
            w = options.similarity_weight
            scored.append((w * cosine + (1 - w) * (entry.utility + bonus), entry.id))
        found.append(sorted(scored, key=lambda s: (-s[0], s[1]))[: options.top_k])
    return found


@pytest.mark.parametrize("greedy", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        Library(),
        Library(counts="updates", ucb=0.15, floor=0.3),
        Library(similarity_weight=1.0, ucb=0, top_k=3, floor=0.4),
        Library(similarity_weight=0.0, top_k=7),
    ],
    ids=["paper", "floor", "released", "utility"],
)
def test_the_candidates_are_those_of_trying_all(tmp_path, options, greedy):
    rng = random.Random(0)
    with SkillLibrary(tmp_path, options=options) as library:
        texts = [" ".join(rng.choices(WORDS, k=5)) for _ in range(400)]
        library.learn(0, [Episode(1.0, skill=Skill(t, t)) for t in texts])
        for step in range(1, 4):
            ids = [tuple(rng.sample(range(1, 401), 5)) for _ in range(64)]
            library.learn(step, [Episode(float(rng.random() < 0.6), i, i[0]) for i in ids])
        queries = [" ".join(rng.choices(WORDS, k=4)) for _ in range(40)] + ["", "unknown"]
        expected = by_hand(library, queries, greedy)
        found = library.retrieve(queries, greedy=greedy)
        assert [len(f) for f in found] == [len(e) for e in expected]
        for one, other in zip(found, expected, strict=True):
            assert [c.score for c in one] == pytest.approx([s for s, _ in other], abs=1e-5)
            # Of scores that float32 cannot tell apart either may come first.
            apart = all(a - b > 1e-5 for (a, _), (b, _) in itertools.pairwise(other))
            assert not apart or [c.entry.id for c in one] == [i for _, i in other]


def test_equal_candidates_come_in_the_order_of_their_age(tmp_path):
    with SkillLibrary(tmp_path) as library:
        library.learn(0, [Episode(1.0, skill=Skill(f"do {i}", "same")) for i in range(300)])
        found = library.retrieve(["same", "other"])
        assert [[c.entry.id for c in row] for row in found] == [[1, 2, 3, 4, 5]] * 2


def test_an_empty_library_and_one_smaller_than_k(tmp_path):
    with SkillLibrary(tmp_path) as library:
        assert library.retrieve(["anything", ""]) == [[], []]
        assert library.retrieve([]) == []
        library.learn(0, [Episode(1.0, skill=skill("a"))])
        assert [len(row) for row in library.retrieve(["a", "b"], top_k=50)] == [1, 1]


@pytest.mark.parametrize(
    ("evict", "gone"),
    # Utilities .4, .9, .1, .5 and 3, 1, 2, 0 selections: U ln n = .44, 0, .07, -inf;
    # U ln(n+1) = .55, .62, .11, 0; last used in steps 2, 0, 9, 5.
    [("u_log_n", [4, 2]), ("u_log_n1", [4, 3]), ("least_recent", [2, 1]), ("none", [4, 3])],
)
def test_who_is_evicted(tmp_path, evict, gone):
    rows = [(0.4, 3, 2, 1), (0.9, 1, 0, 2), (0.1, 2, 9, 3), (0.5, 0, 5, 4)]
    with filled(tmp_path, "abcd") as library, library.store.transaction() as transaction:
        transaction.executemany(
            "update skills set utility = ?, selections = ?, used = ? where id = ?", rows
        )
    for room in (3, 2):
        with SkillLibrary(tmp_path, options=Library(evict=evict, capacity=room)) as library:
            assert library.learn(20, [])["evicted"] == 1
            left = {e.id for e in library.entries()}
        assert left == {1, 2, 3, 4} - set(gone[: 4 - room])


def test_the_young_are_spared_while_there_are_others(tmp_path):
    options = Library(capacity=2, grace=3)
    with filled(tmp_path, "ab", options) as library:
        library.learn(1, [Episode(1.0, (1, 2), 1)] * 9)
        assert library.learn(5, [Episode(1.0, skill=skill("c"))])["evicted"] == 1
        assert [e.id for e in library.entries()] == [1, 3]
        library.learn(6, [Episode(1.0, skill=skill("d")), Episode(1.0, skill=skill("e"))])
        # All that are left are young: the capacity holds all the same.
        assert len(library) == 2
    with filled(tmp_path / "full", "ab", Library(capacity=2, evict="none")) as library:
        assert library.learn(1, [Episode(1.0, skill=skill("c"))])["refused"] == 1
        assert [e.id for e in library.entries()] == [1, 2]


def test_what_counts_as_one_skill(tmp_path):
    def size(dedupe, *skills):
        with SkillLibrary(
            tmp_path / f"{dedupe}{len(skills)}", options=Library(dedupe=dedupe)
        ) as lib:
            counts = lib.learn(0, [Episode(1.0, skill=s) for s in skills])
            return len(lib), counts["merged"], lib.entries()[0].utility

    one = Skill("go", "when mugs are in a cabinet of the kitchen")
    near = Skill("go", "when mugs are in a cabinet of the large kitchen")
    far = Skill("go", "for lamps")
    assert size("none", one, one, near) == (3, 0, 0.5)
    assert size("exact", one, one, near) == (2, 1, pytest.approx(0.525))
    assert size("similar", one, near, far, one) == (2, 2, pytest.approx(0.95 * 0.525 + 0.05))


def test_hostile_texts_are_bounded_and_counted(tmp_path):
    long, odd = "x" * 100_000, "a\x00b\ud800\x1b[31m"
    with SkillLibrary(tmp_path, options=Library(longest=100)) as library:
        counts = library.learn(
            0,
            [
                Episode(1.0, skill=Skill(long, odd)),
                Episode(1.0, skill=Skill(" \n", "never")),
                Episode(1.0, skill=Skill("do", "\x00")),
                Episode(1.0, (99, -1), 77),
            ],
        )
        assert {k: v for k, v in counts.items() if v} == {
            "admitted": 1,
            "cut": 1,
            "empty": 2,
            "unparsed": 1,
            "unknown": 3,
        }
        entry = library.entries()[0]
        assert (len(entry.skill.strategy), entry.skill.description) == (100, "a b? [31m")
        assert library.retrieve(["'; drop table skills; --", long, odd])[1]


def test_a_bad_reward_is_named_and_nothing_is_learned(tmp_path):
    with filled(tmp_path, "a") as library:
        before = numbers(library)
        for field, episode in (
            ("reward", Episode(math.nan, (1,))),
            ("reward", Episode(10.0, (1,))),
            ("group_mean", Episode(1.0, (1,), group_mean=-0.5)),
        ):
            with pytest.raises(LibraryError, match=f"episode 1 of step 3: field '{field}'"):
                library.learn(3, [Episode(1.0, (1,)), episode])
        assert numbers(library) == before


def test_options_out_of_range_are_named():
    with pytest.raises(LibraryError, match="'top_k' is 0; it must be at least 1"):
        Library(top_k=0)
    with pytest.raises(LibraryError, match=r"'alpha' is 1\.5; it must be between 0 and 1"):
        Library(alpha=1.5)
    with pytest.raises(LibraryError, match="'similarity_weight' is nan"):
        Library(similarity_weight=math.nan)
    for name in ("update", "counts", "admit", "dedupe", "evict", "initial"):
        with pytest.raises(LibraryError, match=f"option {name}='selcted' is not one of"):
            Library(**{name: "selcted"})
    with pytest.raises(LibraryError, match="option floor must be at least -1 and at most 1"):
        Library(floor=math.nan)


def test_one_writer_and_many_readers(tmp_path):
    with filled(tmp_path, "a") as writer:
        with pytest.raises(LibraryError, match="another process writes it"):
            SkillLibrary(tmp_path)
        with (
            SkillLibrary(tmp_path, readonly=True) as one,
            SkillLibrary(tmp_path, readonly=True) as two,
        ):
            assert len(one) == len(two) == 1
            with writer.store.transaction() as transaction:
                transaction.execute("delete from skills")
                assert len(one) == 1
            writer.learn(1, [Episode(1.0, skill=skill(n)) for n in "bc"])
            found = [[c.entry.id for c in lib.retrieve(["b"])[0]] for lib in (one, two)]
            assert found == [[2, 3], [2, 3]]
            with pytest.raises(LibraryError, match="readonly=True and cannot learn"):
                one.learn(2, [])
    SkillLibrary(tmp_path).close()


def test_a_snapshot_is_the_library_of_its_step(tmp_path):
    with filled(tmp_path, "abc") as library:
        library.learn(1, [Episode(1.0, (1, 2), 1)])
        with library.store.transaction() as transaction:
            transaction.execute("delete from skills where id = 3")
        library.restore(library.snapshot())
        snapshot, before = library.snapshot(), library.entries()
        later = [Episode(1.0, (1, 3), 3, skill("d")), Episode(0.0, (2,), 2)]
        library.learn(2, later)
        after = library.entries()
        # The id of the one that is gone is not given again.
        assert [e.id for e in after] == [1, 2, 4]
        library.restore(snapshot)
        assert library.entries() == before
        library.learn(2, later)
        assert library.entries() == after
        for bad in (b"", b"SQLite format 3\x00" + bytes(100), snapshot[:3000]):
            with pytest.raises(LibraryError, match=r"snapshot is no skill library|damaged"):
                library.restore(bad)
        assert library.entries() == after
    other = SkillLibrary(tmp_path / "other", HashedProjection(16))
    with other, pytest.raises(LibraryError, match="field 'dimensions' is '128', not '16'"):
        other.restore(snapshot)


KILLED = """
import json, os, signal, sys
from jaxlab.agents.skill_library import Episode, Library, Skill, SkillLibrary
path, statements = sys.argv[1], 0
for limit in range(1, 200):
    child = os.fork()
    if child == 0:
        library = SkillLibrary(path, options=Library(capacity=4))
        def count(statement):
            global statements
            statements += 1
            if statements == limit:
                os.kill(os.getpid(), signal.SIGKILL)
        library.store.connection.set_trace_callback(count)
        new = [Skill(f"do {limit} {i}", "when") for i in "ab"]
        library.learn(limit, [Episode(1.0, (1, 2), 1, skill) for skill in new])
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    with SkillLibrary(path, readonly=True) as library:
        told = [(e.skill.strategy, round(e.utility, 12), e.updates) for e in library.entries()]
    print(json.dumps([os.WIFSIGNALED(status), told]))
    if not os.WIFSIGNALED(status):
        break
"""


def test_killed_between_any_two_statements_it_is_a_step_or_none(tmp_path):
    with filled(tmp_path, "abc"):
        pass
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [killed for killed, _ in lines] == [True] * (len(lines) - 1) + [False]
    assert len(lines) > 10
    utility = 0.5
    untouched = [[f"do {name}", 0.5, 0] for name in "abc"]
    # Up to the statement that commits nothing was learned; after it the whole step.
    for limit, (killed, told) in enumerate(lines, 1):
        if killed and told == untouched:
            continue
        utility = 0.95 * (0.95 * 0.5 + 0.05) + 0.05
        assert told[0] == ["do a", round(utility, 12), 2]
        assert len(told) == 4, limit
        break
    assert limit >= len(lines) - 1


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ("update about set value = '0' where key = 'schema'", "field 'schema' is '0', not '1'"),
        ("delete from about", "field 'schema' is None"),
        ("drop table skills", "table 'skills' is damaged: no such table"),
        ("update skills set embedding = x'00'", "table 'skills' is damaged"),
    ],
)
def test_libraries_of_another_kind_are_named(tmp_path, change, cause):
    filled(tmp_path, "abc").close()
    with sqlite3.connect(tmp_path / "skills.sqlite") as database:
        database.execute(change)
    with pytest.raises(LibraryError, match=cause) as caught:
        SkillLibrary(tmp_path)
    assert str(tmp_path / "skills.sqlite") in str(caught.value)


def test_files_that_are_no_libraries(tmp_path):
    filled(tmp_path, "abc").close()
    path = tmp_path / "skills.sqlite"
    with pytest.raises(LibraryError, match="field 'encoder' is 'hashed projection of 128, seed 0'"):
        SkillLibrary(tmp_path, TfIdf(["when a"]))
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(LibraryError, match=r"skills\.sqlite: "):
        SkillLibrary(tmp_path)
    path.write_text("not a database, but long enough to be taken for one " * 20)
    with pytest.raises(LibraryError, match="is no skill library: file is not a database"):
        SkillLibrary(tmp_path, readonly=True)
    with pytest.raises(LibraryError, match="there is no skill library to read"):
        SkillLibrary(tmp_path / "none", readonly=True)
    with sqlite3.connect(tmp_path / "other.sqlite") as database:
        database.execute("create table things (id)")
    with pytest.raises(LibraryError, match="is a database, but no skill library"):
        SkillLibrary(tmp_path / "other.sqlite")


def test_encoders_by_hand():
    """idf = ln((1 + 3) / (1 + n)) + 1: of "mug", in two of three texts, ln(4/3) + 1."""
    encoder = TfIdf(["a mug", "the mug", "an apple"])
    mug, a = math.log(4 / 3) + 1, math.log(4 / 2) + 1
    row = encoder(["a mug unheard"])[0]
    assert sorted(row[row > 0]) == pytest.approx(sorted(np.array([mug, a]) / math.hypot(mug, a)))
    assert not encoder(["", "unheard"]).any()
    assert encoder.name != TfIdf(["a mug", "the mug"]).name
    with pytest.raises(ValueError, match="needs a corpus with words"):
        TfIdf(["", "..."])

    hashed = HashedProjection(64)
    same, other = hashed(["put a Mug", "mug, put: a", "apple"])[[0, 1]], hashed(["zebra"])[0]
    assert np.array_equal(same[0], same[1])
    assert abs(float(same[0] @ other)) < 0.5
    assert np.linalg.norm(hashed(["word " * 10**6])[0]) == pytest.approx(1, abs=1e-6)
    # The first word's vector is the same on every machine and in every version.
    assert HashedProjection(4)(["mug"])[0] == pytest.approx(MUG, abs=1e-6)


MUG = (0.71249908, -0.11960530, -0.67123854, -0.16576639)


def test_the_commands_show_export_and_import(tmp_path, capsys):
    with SkillLibrary(tmp_path) as library:
        library.learn(
            3,
            [
                Episode(
                    1.0, skill=Skill('Look\nin "drawers": first', "when mugs are wanted", "mug")
                ),
                Episode(1.0, skill=skill("b")),
            ],
        )
        library.learn(4, [Episode(1.0, (2,), 2)])
        entries = library.entries()
    assert skill_files.main(["show", str(tmp_path), "--width=60"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[1] == "     2  0.525      1      1      3  when b: do b"
    assert shown[2].endswith("...")
    assert len(shown[2]) == 60
    assert shown[-1] == "2 skills"

    assert skill_files.main(["export", str(tmp_path)]) == 0
    text = (tmp_path / "skills" / "when-mugs-are-wanted-1" / "SKILL.md").read_text()
    assert text.startswith(
        '---\nname: "when-mugs-are-wanted-1"\ndescription: "when mugs are wanted"'
    )
    assert text.endswith('---\n\nLook\nin "drawers": first\n')

    new = tmp_path / "new"
    new.mkdir()
    arguments = ["import", str(new), f"--skills={tmp_path / 'skills'}"]
    assert skill_files.main(arguments) == skill_files.main(arguments) == 0
    assert "2 of 2 skills are new" in (out := capsys.readouterr().out)
    assert "0 of 2 skills are new" in out
    with SkillLibrary(new) as library:
        back = sorted(library.entries(), key=lambda e: e.skill.description, reverse=True)
        assert [(e.skill, e.utility, e.selections, e.used) for e in back] == [
            (e.skill, e.utility, e.selections, e.used) for e in entries
        ]

    bad = tmp_path / "skills" / "bad" / "SKILL.md"
    bad.parent.mkdir()
    for content, cause in (
        ("no front matter", "has no front matter"),
        ("---\nname: x\n---\n\ndo", "field 'description' is missing"),
        ("---\ndescription: x\n---\n\n", "field 'body' is missing"),
        ("---\ndescription: x\nutility: 2\n---\n\ndo", "field 'utility' is 2.0, above 1"),
        ("---\ndescription: x\nupdates: many\n---\n\ndo", "field 'updates' is 'many'"),
        ("---\ndescription: x\nsuccess: no\n---\n\ndo", "field 'success' is 'no', not true or"),
        ("---\ndescription: x\ntask: 3\n---\n\ndo", "field 'task' is 3, no text"),
        ("---\ndescription: >\n  of mugs\n---\n\ndo", "field 'description' has a second line"),
    ):
        bad.write_text(content)
        assert skill_files.main(arguments) == 2
        assert f"{bad}: {cause}" in capsys.readouterr().err
    assert skill_files.main(["import", str(new), f"--skills={new}"]) == 2
    assert "has no NAME/SKILL.md" in capsys.readouterr().err
    assert skill_files.main(["show", str(tmp_path / "none")]) == 2
    assert "there is no skill library to read" in capsys.readouterr().err


def test_the_released_settings():
    released = skill_library.RELEASED
    assert (released.top_k, released.similarity_weight, released.floor) == (3, 1.0, 0.4)
    assert (released.counts, released.evict, released.dedupe) == ("updates", "u_log_n1", "similar")


def test_a_library_of_another_encoder_is_embedded_again_when_asked(tmp_path):
    """In memory where it is only read, and otherwise in the file; never unasked."""
    with SkillLibrary(tmp_path, HashedProjection(32)) as library:
        for name in ("mugs", "lamps", "fire"):
            library.learn(1, [Episode(1.0, skill=Skill(f"lesson of {name}", f"for {name}"))])
        entries = library.entries()
    file = tmp_path / "skills.sqlite"
    before = file.read_bytes()
    other = TfIdf(["for mugs", "for lamps", "for fire"])
    with pytest.raises(LibraryError, match=r"'encoder' is 'hashed projection of 32.* reembed=True"):
        SkillLibrary(tmp_path, other)
    with SkillLibrary(tmp_path, other, readonly=True, reembed=True) as library:
        assert library.entries() == entries
        found = library.retrieve(["fire"], greedy=True)[0][0]
        assert found.entry.skill.description == "for fire"
        assert found.similarity == pytest.approx(
            float((other(["fire"]) @ other(["for fire"]).T)[0, 0])
        )
    assert file.read_bytes() == before
    with SkillLibrary(tmp_path, other, reembed=True) as library:
        assert library.entries() == entries
        library.learn(2, [Episode(1.0, skill=Skill("lesson of cups", "for mugs"))])
    with SkillLibrary(tmp_path, other, readonly=True) as library:
        stored = library.retrieve(["mugs"], greedy=True)[0]
        assert [candidate.similarity for candidate in stored[:2]] == [found.similarity] * 2
    with pytest.raises(LibraryError, match="'encoder' is 'tf-idf"):
        SkillLibrary(tmp_path, HashedProjection(32))
    with pytest.raises(LibraryError, match=r"'tf-idf of 3 documents, .*': give that, or embed"):
        skill_files.encoder_of(tmp_path)


def test_the_encoder_of_a_library_is_known_by_its_name(tmp_path):
    assert skill_files.encoder_of(tmp_path).name == HashedProjection().name
    SkillLibrary(tmp_path, HashedProjection(16, seed=3)).close()
    with SkillLibrary(tmp_path, skill_files.encoder_of(tmp_path)) as library:
        assert library.encoder.dimensions == 16
    (tmp_path / "none").write_text("no database")
    with pytest.raises(LibraryError, match="none: is no skill library"):
        skill_files.encoder_of(tmp_path / "none")
