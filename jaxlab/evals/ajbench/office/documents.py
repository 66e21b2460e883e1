"""Word files through python-docx: paragraphs with their runs, tables, headers, pictures.

Paragraphs are those of the body, numbered from 1; the text of tables is read by table.
"""

import io
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import docx
from docx.document import Document
from docx.enum.text import WD_ALIGN_PARAGRAPH
from docx.oxml.ns import qn
from docx.shared import Pt
from docx.text.paragraph import Paragraph
from docx.text.run import Run

from jaxlab.evals.ajbench.office import formats, letters
from jaxlab.evals.ajbench.office.letters import points
from jaxlab.evals.ajbench.sandbox.limits import ToolError

MAX_PARAGRAPHS = 500  # of one call


def load(content: bytes) -> Document:
    """The document."""
    return docx.Document(io.BytesIO(content))


def save(document: Document) -> bytes:
    """The file."""
    out = io.BytesIO()
    document.save(out)
    return out.getvalue()


def overview(document: Document) -> str:
    """How many of what there are, the pages' set-up, headers and footers, pictures."""
    body = document.element.body
    tables, pictures = document.tables, list(document.inline_shapes)
    lines = [f"{len(document.paragraphs)} paragraphs, {len(tables)} tables"]
    core = document.core_properties
    lines += [
        f"{name} {value!r}"
        for name, value in (("title", core.title), ("author", core.author))
        if value
    ]
    for number, section in enumerate(document.sections, start=1):
        size = [points(length) for length in (section.page_width, section.page_height)]
        margins = [
            points(length)
            for length in (
                section.top_margin,
                section.right_margin,
                section.bottom_margin,
                section.left_margin,
            )
        ]
        columns = section._sectPr.find(qn("w:cols"))
        count = columns.get(qn("w:num")) if columns is not None else None
        lines.append(
            f"section {number}: page {' x '.join(size)} pt, margins top right bottom left "
            f"{' '.join(margins)} pt, columns {count or 1}"
        )
        for name, part in (
            ("header", section.header),
            ("footer", section.footer),
            ("first header", section.first_page_header),
            ("first footer", section.first_page_footer),
        ):
            if part.is_linked_to_previous:
                continue
            fields = _fields(part._element)
            text = " / ".join(paragraph.text for paragraph in part.paragraphs)
            lines.append(f"  {name} {text!r}" + (f" fields {fields}" if fields else ""))
    for number, table in enumerate(tables, start=1):
        rows = table._tbl.tr_lst
        lines.append(
            f"table {number}: {len(rows)} rows, {len(table._tbl.tblGrid.gridCol_lst)} columns, "
            f"style {table.style.name if table.style is not None else None!r}"
        )
    for number, picture in enumerate(pictures, start=1):
        lines.append(
            f"picture {number}: {points(picture.width)} x {points(picture.height)} pt, in line"
        )
    floating = body.findall(f".//{qn('wp:anchor')}")
    for name, tag in (
        ("inserted passages", "w:ins"),
        ("deleted passages", "w:del"),
        ("comments", "w:commentReference"),
        ("footnotes", "w:footnoteReference"),
        ("page breaks", "w:br"),
    ):
        found = body.findall(f".//{qn(tag)}")
        if tag == "w:br":
            found = [entry for entry in found if entry.get(qn("w:type")) == "page"]
        if found:
            lines.append(f"{len(found)} {name}")
    if floating:
        lines.append(f"{len(floating)} floating pictures or shapes")
    styles = sorted({_style(paragraph) for paragraph in document.paragraphs})
    lines.append(f"paragraph styles: {', '.join(styles)}")
    return "\n".join(lines)


def read_paragraphs(document: Document, first: str, last: str) -> str:
    """Paragraphs with style, alignment, spacing and the formats of their runs."""
    paragraphs = document.paragraphs
    start = formats.number(first, 1, len(paragraphs))
    end = min(formats.number(last, start, 1 << 30), len(paragraphs))
    if end - start >= MAX_PARAGRAPHS:
        raise ToolError(f"{MAX_PARAGRAPHS} paragraphs at most: ask for a part")
    return "\n".join(_paragraph(number, paragraphs[number - 1]) for number in range(start, end + 1))


def read_table(document: Document, table: str) -> str:
    """A table's rows; a cell over several columns says so."""
    tables = document.tables
    found = tables[formats.number(table, 1, len(tables)) - 1]
    lines = []
    for row in found._tbl.tr_lst:
        cells = []
        for cell in row.tc_lst:
            # Not row.cells: that repeats a cell as often as its span says.
            text = "\n".join(Paragraph(p, found).text for p in cell.p_lst)
            cells.append(text + (f" [{cell.grid_span} columns]" if cell.grid_span > 1 else ""))
        lines.append(" | ".join(cells))
    return "\n".join(lines)


def find_text(document: Document, text: str) -> str:
    """Paragraphs, cells, headers and footers that hold a text, in any case."""
    wanted = text.casefold()
    lines = [
        f"paragraph {number}: {paragraph.text}"
        for number, paragraph in enumerate(document.paragraphs, start=1)
        if wanted in paragraph.text.casefold()
    ]
    for number, table in enumerate(document.tables, start=1):
        for row in table._tbl.tr_lst:
            for cell in row.tc_lst:
                content = "\n".join(Paragraph(p, table).text for p in cell.p_lst)
                if wanted in content.casefold():
                    lines.append(f"table {number}: {content}")
    for number, section in enumerate(document.sections, start=1):
        for name, part in (("header", section.header), ("footer", section.footer)):
            if part.is_linked_to_previous:
                continue
            lines += [
                f"{name} of section {number}: {paragraph.text}"
                for paragraph in part.paragraphs
                if wanted in paragraph.text.casefold()
            ]
    return "\n".join(lines) or "not found"


def replace_text(document: Document, old: str, new: str) -> str:
    """Replace a text in all paragraphs and cells; across runs, the first one's format is taken."""
    if not old:
        raise ToolError("the text to replace is empty")
    count = 0
    for paragraph in _all_paragraphs(document):
        count += sum(_replace_in_run(run, old, new) for run in paragraph.runs)
        while (start := paragraph.text.find(old)) >= 0 and _joinable(paragraph):
            _replace_across(paragraph.runs, start, len(old), new)
            count += 1
            if old in new:
                break
    if not count:
        raise ToolError(f"{old!r:.100} is in no paragraph")
    return f"replaced {count} times"


def insert_paragraph(document: Document, after: str, text: str, style: str) -> str:
    """Insert a paragraph behind another one; 0 is the beginning, style "" the default."""
    paragraphs = document.paragraphs
    number = formats.number(after, 0, len(paragraphs))
    if style and style not in [entry.name for entry in document.styles]:
        raise ToolError(f"no style {style!r:.60} in this document")
    if number < len(paragraphs) and number == 0:
        new = paragraphs[0].insert_paragraph_before(text, style or None)
    else:
        new = document.add_paragraph(text, style or None)
        if number:
            paragraphs[number - 1]._p.addnext(new._p)
    return f"inserted {new.text!r:.100}"


def delete_paragraph(document: Document, number: str) -> str:
    """Delete a paragraph."""
    paragraphs = document.paragraphs
    element = paragraphs[formats.number(number, 1, len(paragraphs)) - 1]._p
    element.getparent().remove(element)
    return f"{len(paragraphs) - 1} paragraphs"


def format_paragraph(document: Document, number: str, format: str) -> str:
    """Change a paragraph, and the letters of all its runs; see `FORMATS`."""
    paragraphs = document.paragraphs
    paragraph = paragraphs[formats.number(number, 1, len(paragraphs)) - 1]
    wanted = formats.parse(format, FORMATS)
    if "style" in wanted:
        if wanted["style"] not in [style.name for style in document.styles]:
            raise ToolError(f"no style {wanted['style']!r:.60} in this document")
        paragraph.style = wanted["style"]
    layout = paragraph.paragraph_format
    if "align" in wanted:
        paragraph.alignment = getattr(WD_ALIGN_PARAGRAPH, wanted["align"].upper())
    if "line_spacing" in wanted:
        layout.line_spacing = wanted["line_spacing"]
    for name in ("space_before", "space_after", "left_indent", "first_line_indent"):
        if name in wanted:
            setattr(layout, name, Pt(wanted[name]))
    for run in paragraph.runs:
        letters.change(run.font, wanted, docx.shared, docx.shared)
    return _paragraph(int(number), paragraph)


def set_table_cell(document: Document, table: str, row: str, column: str, text: str) -> str:
    """Replace the text of a table's cell, counted from 1 as the row's cells stand."""
    tables = document.tables
    found = tables[formats.number(table, 1, len(tables)) - 1]
    rows = found._tbl.tr_lst
    cells = rows[formats.number(row, 1, len(rows)) - 1].tc_lst
    cell = cells[formats.number(column, 1, len(cells)) - 1]
    first, *others = cell.p_lst or [cell.add_p()]
    for other in others:
        cell.remove(other)
    Paragraph(first, found).text = text
    return f"row {row}, column {column} is {text!r:.100}"


FORMATS: dict[str, formats.Check] = {
    **formats.TEXT,
    "align": formats.one_of(*letters.ALIGNMENTS),
    "style": formats.text,
    "line_spacing": formats.size,
    "space_before": formats.place,
    "space_after": formats.place,
    "left_indent": formats.place,
    "first_line_indent": formats.place,
}
READING: Mapping[str, Callable[..., str]] = {
    "overview": overview,
    "find_text": find_text,
    "read_paragraphs": read_paragraphs,
    "read_table": read_table,
}
WRITING: Mapping[str, Callable[..., str]] = {
    "replace_text": replace_text,
    "insert_paragraph": insert_paragraph,
    "delete_paragraph": delete_paragraph,
    "format_paragraph": format_paragraph,
    "set_table_cell": set_table_cell,
}


def _paragraph(number: int, paragraph: Paragraph) -> str:
    layout = paragraph.paragraph_format
    notes = [_style(paragraph)]
    if layout.alignment is not None:
        notes.append(f"align {layout.alignment.name.lower()}")
    if layout.line_spacing is not None:
        spacing = layout.line_spacing
        notes.append(
            f"line spacing {spacing:g}"
            if isinstance(spacing, float)
            else f"line spacing {points(spacing)} pt"
        )
    for name in ("space_before", "space_after", "left_indent", "first_line_indent"):
        if getattr(layout, name) is not None:
            notes.append(f"{name.replace('_', ' ')} {points(getattr(layout, name))} pt")
    if paragraph._p.find(f"{qn('w:pPr')}/{qn('w:numPr')}") is not None:
        notes.append("list item")
    if layout.page_break_before:
        notes.append("page break before")
    stops = [f"{points(stop.position)} pt" for stop in layout.tab_stops]
    if stops:
        notes.append(f"tab stops {' '.join(stops)}")
    lines = [f"{number} [{', '.join(notes)}] {paragraph.text}"]
    runs = [(run.text, _run(run)) for run in paragraph.runs if run.text or _pictures(run)]
    if any(note for _, note in runs):
        lines += [f"  {text!r} {note or 'plain'}" for text, note in runs]
    return "\n".join(lines)


def _run(run: Run) -> str:
    font = run.font
    names = ("bold", "italic", "underline", "strike", "superscript", "subscript", "all_caps")
    notes = letters.notes(font, names)
    if font.color is not None and font.color.rgb is not None:
        notes.append(f"color #{font.color.rgb}")
    if font.highlight_color is not None:
        notes.append(f"highlight {font.highlight_color.name.lower()}")
    if _pictures(run):
        notes.append("picture")
    return ", ".join(notes)


def _pictures(run: Run) -> bool:
    return run._r.find(f".//{qn('w:drawing')}") is not None


def _style(paragraph: Paragraph) -> str:
    return str(paragraph.style.name) if paragraph.style is not None else "no style"


def _fields(element: Any) -> str:
    """Instructions of fields, such as PAGE."""
    simple = [str(entry.get(qn("w:instr"))).strip() for entry in element.iter(qn("w:fldSimple"))]
    complex_ = [(entry.text or "").strip() for entry in element.iter(qn("w:instrText"))]
    return ", ".join(simple + complex_)


def _all_paragraphs(document: Document) -> Iterator[Paragraph]:
    yield from document.paragraphs
    for table in document.tables:
        for row in table._tbl.tr_lst:
            for cell in row.tc_lst:
                for element in cell.p_lst:
                    yield Paragraph(element, table)


def _replace_in_run(run: Run, old: str, new: str) -> int:
    count = run.text.count(old)
    # A run with a picture or a break would lose it.
    if count and not _pictures(run):
        run.text = run.text.replace(old, new)
        return count
    return 0


def _joinable(paragraph: Paragraph) -> bool:
    """Whether the paragraph's text is that of its runs, with no hyperlink between."""
    return paragraph.text == "".join(run.text for run in paragraph.runs)


def _replace_across(runs: list[Run], start: int, length: int, new: str) -> None:
    end, position, written = start + length, 0, False
    for run in runs:
        text = run.text
        low, high = max(start - position, 0), min(end - position, len(text))
        position += len(text)
        if low < high:
            run.text = text[:low] + ("" if written else new) + text[high:]
            written = True
