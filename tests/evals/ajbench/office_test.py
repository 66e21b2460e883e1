import io
import itertools
import os
import pathlib
import shutil
import zipfile

import docx
import openpyxl
import pptx
import pytest

from jaxlab.evals.ajbench import rows
from jaxlab.evals.ajbench.environments import workspace
from jaxlab.evals.ajbench.office import office, office_worker, packages, soffice
from jaxlab.evals.ajbench.sandbox import files, marks, programs
from jaxlab.evals.ajbench.sandbox.tools import Toolbox
from tests.evals.ajbench import gui_trees

SECRET = "the label is 1"
COUNT = itertools.count()


@pytest.fixture(scope="module")
def run_folder():
    with workspace.run_folder() as folder:
        yield folder


@pytest.fixture(scope="module")
def units(tmp_path_factory):
    return rows.read(gui_trees.make(tmp_path_factory.mktemp("data"))).units


@pytest.fixture(scope="module")
def filled(run_folder):
    """The one environment of this module, for all but those that need another: its child, which
    loads the libraries, is most of the cost. Its folder is emptied and filled with a copy."""
    folder = run_folder / "shared"
    folder.mkdir(mode=0o711)
    environment = office.Office(folder)

    def fill(source=None):
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        if source is not None:
            files.copy(pathlib.Path(source), folder)
        return environment, folder

    yield fill
    environment.close()


@pytest.fixture
def opened(run_folder, request):
    """Opens an empty folder; everything is closed and removed afterwards."""
    found = []

    def open_(**more):
        folder = run_folder / f"sample{next(COUNT)}"
        folder.mkdir(mode=0o711)
        found.append(office.Office(folder, **more))
        return found[-1], folder

    yield open_
    for environment in found:
        environment.close()


# What tools show of the right result and not of the wrong one, or of both.
SEEN = {
    "GUI-Excel": [
        ("read_cells", {"sheet": "Sales", "cells": "B5"}, 'B5: "=SUM(B2:B4)" = null', True),
        ("read_styles", {"sheet": "Sales", "cells": "B5"}, "number format '0.00'", True),
        ("read_cells", {"sheet": "Sales", "cells": "A:B"}, "B4: 12.5", None),
        (
            "read_styles",
            {"sheet": "Sales", "cells": "A1"},
            "Arial 14, bold, color #0000FF, fill #FFFF00, align center, wrap",
            None,
        ),
        ("overview", {}, "merged D1:E2", None),
        ("overview", {}, "BarChart 'Sales by month' at G3, series 'Sales'!$B$2:$B$4", None),
        ("overview", {}, "column A size 30", None),
        ("overview", {}, "sheet 'Notes', cells C3:C3, hidden", None),
        ("find_text", {"text": "DRAFT"}, "Notes!C3: Draft", None),
    ],
    "GUI-Word": [
        ("read_paragraphs", {"first": "1", "last": "9"}, "'Results' bold, color #FF0000", True),
        ("read_paragraphs", {"first": "1", "last": "9"}, "1 [Heading 1] Report", None),
        ("overview", {}, "header 'confidential'", None),
        ("overview", {}, "title 'Report'", None),
        ("read_table", {"table": "1"}, "wide [2 columns]\n | corner", None),
        ("find_text", {"text": "results"}, "paragraph 2: Our Results are new.", None),
    ],
    "GUI-PPT": [
        ("read_slide", {"slide": "2"}, "notes 'slow down'", True),
        ("overview", {}, "slide 2, layout 'Title Only', title 'Methods', 3 shapes, notes", True),
        ("read_slide", {"slide": "2"}, "at 100, 200 size 300 x 50 pt", None),
        ("read_slide", {"slide": "2"}, "'small print' italic, 9 pt", None),
        ("read_slide", {"slide": "2"}, " | corner", None),
        ("find_text", {"text": "CORNER"}, "slide 2, shape", None),
    ],
}


@pytest.mark.parametrize("subdomain", SEEN)
def test_a_result_is_read_with_tools_and_stays_as_it_is(units, filled, subdomain):
    """From the layout's files to what a judge sees."""
    name = gui_trees.KINDS[subdomain.removeprefix("GUI-")]
    for unit in (unit for unit in units if unit.subdomain == subdomain):
        environment, folder = filled(pathlib.Path(unit.meta["source"]).parent)
        before = environment.digest(), (folder / name).read_bytes()
        box = Toolbox(environment.tools(read_only=True))
        for tool, arguments, text, only in SEEN[subdomain]:
            reply = box.call(tool, {"path": name, **arguments})
            assert not reply.failed, reply.text
            assert (text in reply.text) == (only is None or unit.label), (tool, reply.text)
        for tool in set(office.READING) - {entry[0] for entry in SEEN[subdomain]}:
            arguments = dict.fromkeys(box.tools[tool].parameters, "1")
            reply = box.call(tool, {**arguments, "path": name})
            assert reply.failed
            assert "is not for" in reply.text
        assert "step_1.png" in box.call("list_directory", {"path": ""}).text
        assert (environment.digest(), (folder / name).read_bytes()) == before
        assert not set(office.WRITING) & set(box.tools)


# Calls that make the wrong result of a task into the right one.
REPAIRS = {
    "Excel": [
        ("set_cell", {"sheet": "Sales", "cell": "B5", "value": "=SUM(B2:B4)"}),
        ("format_cells", {"sheet": "Sales", "cells": "B5", "format": '{"number_format": "0.00"}'}),
    ],
    "PPT": [
        ("set_shape_text", {"slide": "2", "shape": "2", "text": "Methods"}),
        ("set_notes", {"slide": "2", "text": "slow down"}),
    ],
}


@pytest.mark.parametrize("kind", REPAIRS)
def test_the_same_changes_give_the_same_digest(units, filled, kind):
    wrong = next(u for u in units if u.subdomain == f"GUI-{kind}" and not u.label)
    digests = []
    for _ in range(2):
        environment, _ = filled(pathlib.Path(wrong.meta["source"]).parent)
        digests.append(environment.digest())
        box = Toolbox(environment.tools(read_only=False))
        for tool, arguments in REPAIRS[kind]:
            reply = box.call(tool, {"path": gui_trees.KINDS[kind], **arguments})
            assert not reply.failed, reply.text
        digests.append(environment.digest())
        box = Toolbox(environment.tools(read_only=True))
        for tool, arguments, text, only in SEEN[f"GUI-{kind}"]:
            if only:
                reply = box.call(tool, {"path": gui_trees.KINDS[kind], **arguments})
                assert text in reply.text
    assert digests[0] == digests[2] != digests[1] == digests[3]


def test_times_in_the_archive_do_not_count(tmp_path):
    gui_trees.excel(tmp_path / "a.xlsx", True)
    content = (tmp_path / "a.xlsx").read_bytes()
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w") as new:
        for name in reversed(old.namelist()):
            part = old.read(name).replace(b"202", b"199") if "core" in name else old.read(name)
            new.writestr(zipfile.ZipInfo(name, (1999, 1, 1, 0, 0, 0)), part)
    assert out.getvalue() != content
    assert packages.digest(out.getvalue(), ".xlsx") == packages.digest(content, ".xlsx")
    gui_trees.excel(tmp_path / "b.xlsx", False)
    other = (tmp_path / "b.xlsx").read_bytes()
    assert packages.digest(other, ".xlsx") != packages.digest(content, ".xlsx")


EDITS = [
    ("report.docx", "replace_text", {"old": "Our Res", "new": "His Res"}, "His Results are"),
    ("report.docx", "replace_text", {"old": "corner", "new": "edge"}, None),
    (
        "report.docx",
        "insert_paragraph",
        {"after": "1", "text": "new", "style": "Heading 2"},
        "2 [Heading 2] new",
    ),
    ("report.docx", "insert_paragraph", {"after": "0", "text": "top", "style": ""}, "] top"),
    ("report.docx", "delete_paragraph", {"number": "1"}, "1 [Normal] Our Results"),
    (
        "report.docx",
        "format_paragraph",
        {"number": "2", "format": '{"align": "center", "size": 20, "line_spacing": 2}'},
        "2 [Normal, align center, line spacing 2]",
    ),
    ("report.docx", "set_table_cell", {"table": "1", "row": "2", "column": "1", "text": "x"}, None),
    ("sales.xlsx", "set_cell", {"sheet": "Notes", "cell": "A1", "value": "7"}, "Notes"),
    ("sales.xlsx", "change_sheets", {"action": "copy", "sheet": "Sales", "name": "B"}, "'B'"),
    ("sales.xlsx", "change_sheets", {"action": "delete", "sheet": "Notes", "name": ""}, "Sales"),
    ("sales.xlsx", "change_sheets", {"action": "rename", "sheet": "Notes", "name": "N"}, "'N'"),
    ("talk.pptx", "change_slides", {"action": "move", "slide": "2", "value": "1"}, "1, layout"),
    ("talk.pptx", "change_slides", {"action": "delete", "slide": "1", "value": ""}, "1 slides"),
    ("talk.pptx", "change_slides", {"action": "add", "slide": "1", "value": "Blank"}, "3 slides"),
    ("talk.pptx", "set_background", {"slide": "1", "color": "#00ff00"}, None),
    (
        "talk.pptx",
        "format_shape",
        {"slide": "2", "shape": "2", "format": '{"left": 5, "bold": true, "fill": "#ffffff"}'},
        None,
    ),
]


def test_edits_are_there_after_opening_again(filled):
    environment, folder = filled()
    box = Toolbox(environment.tools(read_only=False))
    looks = {
        "report.docx": ("read_paragraphs", {"first": "1", "last": "99"}),
        "sales.xlsx": ("overview", {}),
        "talk.pptx": ("overview", {}),
    }
    for name, tool, arguments, text in EDITS:
        for kind, file in gui_trees.KINDS.items():
            gui_trees.MAKERS[kind](folder / file, False)
        before = environment.digest()
        reply = box.call(tool, {"path": name, **arguments})
        assert not reply.failed, (tool, reply.text)
        assert environment.digest() != before, tool
        look, more = looks[name]
        if text is not None:
            assert text in box.call(look, {"path": name, **more}).text, tool
    # The libraries themselves, not ours, see the last changes.
    slide = pptx.Presentation(folder / "talk.pptx").slides[1]
    assert slide.shapes.title.left.pt == 5
    assert slide.shapes.title.height.pt > 50
    assert docx.Document(folder / "report.docx").paragraphs[0].text == "Report"
    assert openpyxl.load_workbook(folder / "sales.xlsx")["Sales"]["B2"].value == 10


REFUSED = [
    ("report.docx", "read_paragraphs", {"first": "0", "last": "1"}, "from 1 to"),
    ("report.docx", "read_paragraphs", {"first": "x", "last": "1"}, "from 1 to"),
    ("report.docx", "read_paragraphs", {"first": "9" * 400, "last": "1"}, "from 1 to"),
    ("report.docx", "read_table", {"table": "2"}, "from 1 to 1"),
    ("report.docx", "read_slide", {"slide": "1"}, "is not for .docx"),
    ("report.docx", "replace_text", {"old": "", "new": "x"}, "empty"),
    ("report.docx", "replace_text", {"old": "nowhere", "new": "x"}, "in no paragraph"),
    ("report.docx", "insert_paragraph", {"after": "1", "text": "", "style": "No"}, "no style"),
    ("report.docx", "format_paragraph", {"number": "1", "format": "[]"}, "JSON object"),
    ("report.docx", "format_paragraph", {"number": "1", "format": '{"x": 1}'}, "no format 'x'"),
    ("report.docx", "format_paragraph", {"number": "1", "format": '{"bold": 1}'}, "true or false"),
    ("report.docx", "format_paragraph", {"number": "1", "format": '{"size": 1e9}'}, "4000"),
    ("report.docx", "format_paragraph", {"number": "1", "format": '{"size": NaN}'}, "4000"),
    ("report.docx", "format_paragraph", {"number": "1", "format": '{"color": "red"}'}, "#FF0000"),
    ("report.docx", "format_paragraph", {"number": "1", "format": "[" * 9999}, "JSON object"),
    ("sales.xlsx", "read_cells", {"sheet": "No", "cells": "A1"}, "no sheet 'No'"),
    ("sales.xlsx", "read_cells", {"sheet": "Sales", "cells": "A1:XFD1048576"}, "5000 at most"),
    ("sales.xlsx", "read_cells", {"sheet": "Sales", "cells": "../A1"}, "no range"),
    ("sales.xlsx", "read_cells", {"sheet": "Sales", "cells": ""}, "no range"),
    ("sales.xlsx", "set_cell", {"sheet": "Sales", "cell": "A1:B2", "value": ""}, "1 at most"),
    ("sales.xlsx", "set_cell", {"sheet": "Sales", "cell": "E2", "value": "x"}, "merged"),
    ("sales.xlsx", "change_sheets", {"action": "run", "sheet": "Sales", "name": ""}, "no action"),
    ("talk.pptx", "read_slide", {"slide": "3"}, "from 1 to 2"),
    ("talk.pptx", "set_shape_text", {"slide": "1", "shape": "99", "text": ""}, "no shape"),
    ("talk.pptx", "set_background", {"slide": "1", "color": "url(x)"}, "colour"),
    ("talk.pptx", "change_slides", {"action": "add", "slide": "1", "value": "No"}, "no layout"),
    ("talk.pptx", "set_cell", {"sheet": "", "cell": "", "value": ""}, "is not for .pptx"),
    ("sub", "overview", {}, "no office file"),
    ("notes.txt", "overview", {}, "no office file"),
    ("absent.docx", "overview", {}, "No such file"),
]


def test_bad_arguments_are_refused_in_one_line(filled):
    environment, folder = filled()
    for kind, file in gui_trees.KINDS.items():
        gui_trees.MAKERS[kind](folder / file, True)
    before = environment.digest()
    box = Toolbox(environment.tools(read_only=False))
    for name, tool, arguments, cause in REFUSED:
        reply = box.call(tool, {"path": name, **arguments})
        assert reply.failed, (name, tool, arguments)
        assert cause in reply.text, (cause, reply.text)
        assert "\n" not in reply.text
        assert len(reply.text) < 600
    assert environment.digest() == before


def parts_of(kind):
    """The parts of an ordinary file, to make a hostile one of."""
    out = io.BytesIO()
    gui_trees.MAKERS[kind](out, True)
    with zipfile.ZipFile(out) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(parts):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return out.getvalue()


MAIN = {
    "Word": "word/document.xml",
    "Excel": "xl/worksheets/sheet1.xml",
    "PPT": "ppt/slides/slide1.xml",
}
LAUGHS = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">' + "".join(
    f'<!ENTITY {chr(i + 1)} "{f"&{chr(i)};" * 10}">' for i in range(97, 110)
)
STEAL = '<!DOCTYPE x [<!ENTITY s SYSTEM "file://{secret}">'


def with_type(content, declaration, use):
    """XML with a document type, and a reference where the first text stands."""
    text = content.decode().removeprefix("\ufeff")
    head, _, rest = text.partition("?>")
    for tag in ("<w:t>", "<a:t>", "<v>"):
        rest = rest.replace(tag, f"{tag}{use}", 1)
    return f"{head}?>{declaration}]>{rest}"


def hostile(kind, place):
    """Name -> content and what the refusal says; an empty cause is a file that may be read."""
    parts, main = parts_of(kind), MAIN[kind]
    plain = packed(parts)
    steal = STEAL.format(secret=place / "secret.txt")
    xml = parts[main]
    stolen = with_type(xml, steal, "&s;")
    relation = (
        b'<Relationship Id="rIdX" Type="http://schemas.openxmlformats.org/officeDocument/2006/'
        b'relationships/%s" Target="%s" TargetMode="External"/></Relationships>'
    )
    rels = next(name for name in parts if name.endswith(".rels") and name.startswith(main[:4]))

    def linked(type_, target):
        end = b"</Relationships>"
        return {**parts, rels: parts[rels].replace(end, relation % (type_, target))}

    cases = {
        "empty": (b"", "no ."),
        "text": (b"hello", "no ."),
        "html": (b"<html><iframe src='file:///etc/passwd'></html>", "no ."),
        "truncated": (plain[: len(plain) // 2], "no ."),
        "truncated end": (plain[:-30], "no ."),
        "old binary": (b"\xd0\xcf\x11\xe0" + bytes(600), "old binary"),
        "flipped": (plain[:200] + bytes(60) + plain[260:], ""),
        "zip of nothing": (packed({}), "no ."),
        "no types": (packed({k: v for k, v in parts.items() if "Content_" not in k}), "no ."),
        "no main part": (packed({k: v for k, v in parts.items() if k != main}), ""),
        "bomb": (packed({**parts, "x.bin": bytes(65 << 20)}), "unpacks to"),
        "bomb in the main part": (packed({**parts, main: b" " * (65 << 20)}), "unpacks to"),
        "many parts": (packed({**parts, **{f"x/{i}": b"" for i in range(5001)}}), "unpacks to"),
        "laughs": (packed({**parts, main: with_type(xml, LAUGHS, "&n;")}), "document type"),
        "entity of a file": (
            packed({**parts, main: with_type(xml, steal, "&s;")}),
            "document type",
        ),
        "types with entities": (
            packed(
                {
                    **parts,
                    "[Content_Types].xml": with_type(parts["[Content_Types].xml"], steal, ""),
                }
            ),
            "document type",
        ),
        "relations with entities": (
            packed({**parts, rels: with_type(parts[rels], steal, "")}),
            "document type",
        ),
        "utf-16": (
            packed(
                {
                    **parts,
                    main: stolen.replace("UTF-8", "UTF-16").encode("utf-16"),
                }
            ),
            "not in UTF-8",
        ),
        "utf-7": (
            packed({**parts, main: b'<?xml version="1.0" encoding="utf-7"?>+ADwAIQ-DOCTYPE x>'}),
            "not in UTF-8",
        ),
        "malformed xml": (packed({**parts, main: xml[:-20]}), "cannot be read"),
        "deep xml": (packed({**parts, main: b"<a>" * 100_000 + b"</a>" * 100_000}), ""),
        "names that lead out": (packed({**parts, "../../../secret.txt": b"x", "/etc/x": b"x"}), ""),
        "template elsewhere": (packed(linked(b"attachedTemplate", b"file:///etc/passwd")), ""),
        "image elsewhere": (packed(linked(b"image", b"http://127.0.0.1:9/x.png")), ""),
        "link to a share": (packed(linked(b"oleObject", rb"\\\\10.0.0.1\\share\\x")), ""),
        "macro": (packed({**parts, "word/vbaProject.bin": b"Sub AutoOpen()"}), ""),
        "another kind": (packed(parts_of("Word" if kind == "PPT" else "PPT")), "content types"),
    }
    if kind == "Excel":
        cells = xml.decode()
        all_cells = cells.replace('ref="D1:E2"', 'ref="A1:XFD1048576"')
        assert all_cells != cells
        cases["merged range of all cells"] = (packed({**parts, main: all_cells}), "merged ranges")
        far = cells.replace(
            "</sheetData>", '<row r="1048576"><c r="XFD1048576"><v>1</v></c></row></sheetData>'
        )
        cases["a cell far away"] = (packed({**parts, main: far}), "")
    if kind == "Word":
        wide = xml.decode().replace('<w:gridSpan w:val="2"/>', '<w:gridSpan w:val="999999999"/>')
        assert wide.encode() != xml
        cases["a cell over a billion columns"] = (packed({**parts, main: wide}), "")
    return cases


LOOKS = {
    "Word": [
        ("overview", {}),
        ("read_paragraphs", {"first": "1", "last": "99"}),
        ("read_table", {"table": "1"}),
        ("find_text", {"text": "label"}),
    ],
    "Excel": [
        ("overview", {}),
        ("read_cells", {"sheet": "Sales", "cells": "A1:C9"}),
        ("find_text", {"text": "label"}),
    ],
    "PPT": [("overview", {}), ("read_slide", {"slide": "1"}), ("find_text", {"text": "label"})],
}
CHANGES = {
    "Word": ("insert_paragraph", {"after": "0", "text": "x", "style": ""}),
    "Excel": ("set_cell", {"sheet": "Sales", "cell": "A9", "value": "x"}),
    "PPT": ("set_notes", {"slide": "1", "text": "x"}),
}


@pytest.mark.parametrize("kind", gui_trees.KINDS)
def test_hostile_files(filled, run_folder, kind):
    """85 files that want out, or want all memory: none gets it, each call has a short answer."""
    place = run_folder / f"place{kind}"
    place.mkdir()
    (place / "secret.txt").write_text(SECRET)
    environment, folder = filled()
    box = Toolbox(environment.tools(read_only=False))
    name = gui_trees.KINDS[kind]
    for case, (content, cause) in hostile(kind, place).items():
        (folder / name).write_bytes(content)
        for tool, arguments in [*LOOKS[kind], CHANGES[kind]]:
            reply = box.call(tool, {"path": name, **arguments})
            assert SECRET not in reply.text.replace('"label"', ""), case
            assert len(reply.text) < 21_000, case
            if cause:
                assert reply.failed, (case, tool, reply.text)
                assert cause in reply.text, (case, reply.text)
                assert reply.text.count("\n") == 0, case
        assert len(environment.digest()) == 64
    assert (place / "secret.txt").read_text() == SECRET
    assert sorted(path.name for path in folder.iterdir()) == [name]


PATHS = [
    "../secret.docx",
    "../../secret.docx",
    "/etc/secret.docx",
    "/home/user/../../secret.docx",
    "link.docx",
    "up/secret.docx",
    "up/../secret.docx",
    "slash/etc/x.docx",
    "pipe.docx",
    "folder.docx",
    "file:///etc/x.docx",
    "http://127.0.0.1:9/x.docx",
    "a\0.docx",
    "\ud800.docx",
    "x" * 5000 + ".docx",
    "n" * 300 + ".docx",
    "~/secret.docx",
    "$HOME/secret.docx",
    ".docx",
    "",
    ".",
    "..",
]


def test_paths_that_lead_out(opened, run_folder):
    environment, folder = opened(names=("/", "/home/user"))
    gui_trees.word(run_folder / "secret.docx", True)
    before = (run_folder / "secret.docx").read_bytes()
    (folder / "link.docx").symlink_to(run_folder / "secret.docx")
    (folder / "up").symlink_to("..")
    (folder / "slash").symlink_to("/")
    (folder / "folder.docx").mkdir()
    os.mkfifo(folder / "pipe.docx")
    box = Toolbox(environment.tools(read_only=False))
    calls = [*LOOKS["Word"], CHANGES["Word"], ("screenshot", {"page": "1"})]
    for path in [*PATHS, str(run_folder / "secret.docx")]:
        for tool, arguments in calls:
            reply = box.call(tool, {"path": path, **arguments})
            assert reply.failed, (path, tool, reply.text)
            assert "Results" not in reply.text
    assert (run_folder / "secret.docx").read_bytes() == before


def test_a_reader_that_does_not_end_is_stopped(opened):
    environment, folder = opened(seconds=0.01)
    gui_trees.excel(folder / "sales.xlsx", True)
    reply = Toolbox(environment.tools(True)).call("overview", {"path": "sales.xlsx"})
    assert reply.failed
    assert "took more than 0.01 s" in reply.text


def test_a_reader_that_takes_all_memory_is_stopped(opened):
    """A merged range that the check before reading does not see; the child meets a bound."""
    environment, folder = opened(seconds=3.0)
    parts = parts_of("Excel")
    main = parts[MAIN["Excel"]].decode()
    hidden = main.replace('ref="D1:E2"', 'ref="A1:XFD&#49;048576"')
    assert hidden != main
    (folder / "sales.xlsx").write_bytes(packed({**parts, MAIN["Excel"]: hidden}))
    box = Toolbox(environment.tools(True))
    reply = box.call("overview", {"path": "sales.xlsx"})
    assert reply.failed
    assert "took more than" in reply.text or "memory" in reply.text
    gui_trees.excel(folder / "sales.xlsx", True)
    assert not box.call("overview", {"path": "sales.xlsx"}).failed


def test_a_large_file_is_not_opened(filled):
    environment, folder = filled()
    with (folder / "big.xlsx").open("wb") as file:
        file.truncate(office.MAX_BYTES + 1)
    reply = Toolbox(environment.tools(True)).call("overview", {"path": "big.xlsx"})
    assert reply.failed
    assert "at most are read" in reply.text


@pytest.mark.skipif(not pathlib.Path("/proc/self/environ").exists(), reason="needs /proc")
def test_a_child_that_reads_files_gets_no_keys(opened, monkeypatch):
    """Of a model's provider, whatever their names."""
    monkeypatch.setenv("OPENAI_API_KEY", "geheim-1")
    monkeypatch.setenv("MY_DATABASE", "postgresql://u:geheim-2@h/d")
    environment, folder = opened()
    gui_trees.excel(folder / "sales.xlsx", True)
    assert not Toolbox(environment.tools(True)).call("overview", {"path": "sales.xlsx"}).failed
    child = environment._worker._child.pid
    assert "geheim" not in pathlib.Path(f"/proc/{child}/environ").read_text()


def test_nothing_is_left(run_folder):
    folder = run_folder / "left"
    folder.mkdir(mode=0o711)
    gui_trees.excel(folder / "sales.xlsx", True)
    environment = office.Office(folder)
    box = Toolbox(environment.tools(False))
    arguments = {"path": "sales.xlsx", "sheet": "Sales", "cell": "A9", "value": "1"}
    assert not box.call("set_cell", arguments).failed
    child = environment._worker._child.pid
    assert child in marks.kill(folder)
    environment.close()
    assert {path.name for path in run_folder.iterdir() if "left" in path.name} == {"left"}
    shutil.rmtree(folder)


def test_without_libreoffice_it_says_so(filled, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv(soffice.VARIABLE, raising=False)
    environment, folder = filled()
    gui_trees.word(folder / "report.docx", True)
    reply = Toolbox(environment.tools(True)).call(
        "screenshot", {"path": "report.docx", "page": "1"}
    )
    assert reply.failed
    assert "apt-get install libreoffice-calc" in reply.text


@pytest.mark.slow
@pytest.mark.parametrize("kind", gui_trees.KINDS)
def test_a_page_as_a_picture(opened, kind):
    if shutil.which("soffice") is None:
        pytest.skip(
            "LibreOffice is not here: apt-get install libreoffice-calc libreoffice-writer "
            "libreoffice-impress poppler-utils"
        )
    environment, folder = opened()
    name = gui_trees.KINDS[kind]
    gui_trees.MAKERS[kind](folder / name, True)
    before = environment.digest()
    box = Toolbox(environment.tools(True))
    reply = box.call("screenshot", {"path": name, "page": "1"})
    assert not reply.failed, reply.text
    assert pathlib.Path(reply.text).read_bytes().startswith(b"\x89PNG")
    if shutil.which("pdftoppm"):
        assert "no page 99" in box.call("screenshot", {"path": name, "page": "99"}).text
    assert environment.digest() == before
    scratch = environment._scratch
    environment.close()
    assert not scratch.exists()
    assert programs.confinement().prefix == () or marks.kill(scratch) == []


def _relationships(content):
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return archive.read("word/_rels/document.xml.rels").decode()


@pytest.mark.parametrize(
    ("attributes", "kept"),
    [
        ('Id="a" Type="t/image" Target="http://x/y" TargetMode="External"/', False),
        ("Id='b' Type='t/attachedTemplate' TargetMode='External' Target='http://x/y'/", False),
        ('Id="c" Type="t/image" Target="http://x/y?a>b" TargetMode="External"/', False),
        ('Id="d" Type="t/image" Target="http://x/y/hyperlink" TargetMode="External"/', False),
        ('Id="e" Type="t/image" Target="http://x/y" TargetMode="Extern&#97;l"/', False),
        ('z:Type="/hyperlink" Type="t/image" Target="http://x/y" TargetMode="External"/', False),
        ("Id=' Type=\"/hyperlink\"' Type='t' Target='http://x/y' TargetMode='External'/", False),
        ('Id="h"\n Type = "t/image" Target\n= "http://x/y" TargetMode\n="External"></x:E', False),
        ('Id="i" Type="t/hyperlink" Target="http://x/y" TargetMode="External"/', True),
        ('Id="j" Type="t/image" Target="http://x/y"/', True),
        ('Id="k" Type="t/image" Target="http://x/y" TargetMode="Internal"/', True),
    ],
)
def test_references_elsewhere_are_not_shown_to_libreoffice(attributes, kept):
    parts = parts_of("Word")
    rels = "word/_rels/document.xml.rels"
    for name in ("Relationship", "x:Relationship"):
        element = f"<{name} {attributes}></Relationships>".encode()
        changed = {**parts, rels: parts[rels].replace(b"</Relationships>", element)}
        found = _relationships(packages.without_links(packed(changed), ".docx"))
        assert ("http://x/y" in found) == kept
        assert found.count("about:blank") == (not kept)
        # Nothing else of it changes.
        elsewhere = changed[rels].decode().replace("http://x/y", "about:blank")
        assert len(found.split()) == len(elsewhere.split())


def test_parts_of_many_beginnings_without_an_end():
    """The expressions that look through them are linear; these took hours, and all others' time."""
    parts = parts_of("Word")
    parts["docProps/core.xml"] = b"<dcterms:created <cp:lastModifiedBy>" * (1 << 17)
    assert packages.digest(packed(parts), ".docx")
    for text in (b"<Relationship ", b"<Relationship ' ", b"<Relationship a=", b'<Relationship "'):
        parts["word/_rels/document.xml.rels"] = text * (1 << 18)
        packages.without_links(packed(parts), ".docx")


def test_the_tables_of_tools_and_of_work_agree():
    for table, kind in ((office.READING, "READING"), (office.WRITING, "WRITING")):
        modules = map(office_worker.module, office_worker.MODULES)
        assert set(table) == {name for module in modules for name in getattr(module, kind)}
