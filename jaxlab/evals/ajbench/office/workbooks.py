"""Excel files through openpyxl: cells, formulas, formats, sheets.

Saving keeps what openpyxl keeps: cells, formats, charts and images that it can read; not shapes,
pivot caches or macros. Formulas are not computed: a cell's last value is that of the program which
saved it, and there is none after a change here.
"""

import copy
import datetime
import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import openpyxl
from openpyxl.cell.cell import Cell, MergedCell
from openpyxl.styles import Font, PatternFill
from openpyxl.utils import get_column_letter, range_boundaries
from openpyxl.workbook.workbook import Workbook
from openpyxl.worksheet.worksheet import Worksheet

from jaxlab.evals.ajbench.office import formats
from jaxlab.evals.ajbench.sandbox.limits import ToolError

MAX_CELLS = 5_000  # of one call
MAX_MERGED = 1_000_000  # cells of all merged ranges
_MERGED = re.compile(rb"""<(?:\w+:)?mergeCell\b[^>]*?\bref\s*=\s*["']([A-Z0-9:]+)["']""")


@dataclass
class Book:
    """A file read twice, for openpyxl gives either formulas or their last values."""

    formulas: Workbook
    values: Workbook


def load(content: bytes) -> Book:
    """The workbook; links to other workbooks are dropped.

    Raises:
        ToolError: its merged ranges are too large for openpyxl, which makes an object per cell.
    """
    _check_merged(content)
    return Book(
        openpyxl.load_workbook(io.BytesIO(content), keep_links=False),
        openpyxl.load_workbook(io.BytesIO(content), keep_links=False, data_only=True),
    )


def save(book: Book) -> bytes:
    """The file."""
    out = io.BytesIO()
    book.formulas.save(out)
    return out.getvalue()


def overview(book: Book) -> str:
    """Every sheet with its extent and what lies on it."""
    workbook = book.formulas
    lines = []
    for sheet in workbook.worksheets:
        notes = [f"sheet {sheet.title!r}", f"cells {sheet.dimensions}"]
        if sheet is workbook.active:
            notes.append("active")
        if sheet.sheet_state != "visible":
            notes.append(sheet.sheet_state)
        for name, value in (
            ("freeze panes at", sheet.freeze_panes),
            ("filter", sheet.auto_filter.ref),
            ("print area", sheet.print_area),
        ):
            if value:
                notes.append(f"{name} {value}")
        lines.append(", ".join(notes))
        lines += [f"  merged {cells}" for cells in sheet.merged_cells.ranges]
        lines += [f"  table {table.name!r} {table.ref}" for table in sheet.tables.values()]
        lines += [f"  {_chart(chart)}" for chart in sheet._charts]
        lines += [f"  image at {_anchor(image)}" for image in sheet._images]
        lines += [
            f"  validation {rule.sqref}: {rule.type} {rule.formula1}"
            for rule in sheet.data_validations.dataValidation
        ]
        lines += [
            f"  conditional format {area.sqref}: {', '.join(str(rule.type) for rule in area.rules)}"
            for area in sheet.conditional_formatting
        ]
        for name, sizes in (
            ("column", [(key, d.width, d.hidden) for key, d in sheet.column_dimensions.items()]),
            ("row", [(key, d.height, d.hidden) for key, d in sheet.row_dimensions.items()]),
        ):
            lines += [
                f"  {name} {key}" + (f" size {size:g}" if size else "") + " hidden" * bool(hidden)
                for key, size, hidden in sizes
                if hidden or (size and size != 13)
            ]
    lines += [f"chart sheet {sheet.title!r}" for sheet in workbook.chartsheets]
    lines += [f"name {name} = {entry.value}" for name, entry in workbook.defined_names.items()]
    return "\n".join(lines)


def read_cells(book: Book, sheet: str, cells: str) -> str:
    """Values and formulas of a range, a line for each cell that has one."""
    values = _sheet(book.values, sheet)
    lines = []
    for cell in _cells(_sheet(book.formulas, sheet), cells):
        if cell.value is None:
            continue
        line = f"{cell.coordinate}: {_show(cell.value)}"
        if cell.data_type == "f":
            line += f" = {_show(values[cell.coordinate].value)}"
        if cell.comment is not None:
            line += f" [comment {cell.comment.text!r}]"
        if cell.hyperlink is not None:
            line += f" [link {cell.hyperlink.target or cell.hyperlink.location!r}]"
        lines.append(line)
    return "\n".join(lines) or "no value in these cells"


def read_styles(book: Book, sheet: str, cells: str) -> str:
    """Formats of a range, a line for each cell that has a value or a format of its own."""
    found = _cells(_sheet(book.formulas, sheet), cells)
    lines = [
        f"{cell.coordinate}: {_style(cell)}"
        for cell in found
        if not isinstance(cell, MergedCell) and (cell.value is not None or cell.has_style)
    ]
    return "\n".join(lines) or "no value and no format in these cells"


def find_text(book: Book, text: str) -> str:
    """Cells whose value or formula holds a text, in any case."""
    wanted = text.casefold()
    lines = []
    for sheet, values in zip(book.formulas.worksheets, book.values.worksheets, strict=True):
        # Not iter_rows: one cell far away makes that pass billions of empty ones.
        for _, cell in sorted(sheet._cells.items()):
            shown = [str(cell.value)] if cell.value is not None else []
            if cell.data_type == "f":
                shown.append(str(values[cell.coordinate].value))
            if any(wanted in value.casefold() for value in shown):
                lines.append(f"{sheet.title}!{cell.coordinate}: {' = '.join(shown)}")
    return "\n".join(lines) or "not found"


def set_cell(book: Book, sheet: str, cell: str, value: str) -> str:
    """Write a number, TRUE or FALSE, a formula that begins with "=", or a text; "" empties."""
    (target,) = _cells(_sheet(book.formulas, sheet), cell, 1)
    if isinstance(target, MergedCell):
        raise ToolError(f"{cell} is covered by a merged cell")
    target.value = _value(value)
    return f"{target.coordinate} is {_show(target.value)}"


def format_cells(book: Book, sheet: str, cells: str, format: str) -> str:
    """Change the formats of a range; see `FORMATS`."""
    target = _sheet(book.formulas, sheet)
    wanted = formats.parse(format, FORMATS)
    found = list(_cells(target, cells))
    for cell in found:
        if isinstance(cell, MergedCell):
            continue
        cell.font = _font(cell.font, wanted)
        if "fill" in wanted:
            cell.fill = PatternFill("solid", fgColor=f"FF{wanted['fill']}")
        if "number_format" in wanted:
            cell.number_format = wanted["number_format"]
        if {"align", "valign", "wrap"} & wanted.keys():
            alignment = copy.copy(cell.alignment)
            alignment.horizontal = wanted.get("align", alignment.horizontal)
            alignment.vertical = wanted.get("valign", alignment.vertical)
            alignment.wrap_text = wanted.get("wrap", alignment.wrap_text)
            cell.alignment = alignment
        if "width" in wanted:
            target.column_dimensions[get_column_letter(cell.column)].width = wanted["width"]
        if "height" in wanted:
            target.row_dimensions[cell.row].height = wanted["height"]
    if "merge" in wanted:
        (target.merge_cells if wanted["merge"] else target.unmerge_cells)(cells.upper())
    return f"changed {len(found)} cells"


def change_sheets(book: Book, action: str, sheet: str, name: str) -> str:
    """Add, rename, copy, move or delete a sheet."""
    workbook = book.formulas
    if action == "add":
        workbook.create_sheet(sheet)
    elif action == "rename":
        _sheet(workbook, sheet).title = name
    elif action == "copy":
        workbook.copy_worksheet(_sheet(workbook, sheet)).title = name
    elif action == "move":
        place = formats.number(name, 1, len(workbook.sheetnames)) - 1
        target = _sheet(workbook, sheet)
        workbook.move_sheet(target, place - workbook.index(target))
    elif action == "delete":
        if len(workbook.sheetnames) == 1:
            raise ToolError("the last sheet cannot be deleted")
        workbook.remove(_sheet(workbook, sheet))
    else:
        raise ToolError(f"no action {action!r:.60}: add, rename, copy, move or delete")
    return f"sheets: {', '.join(workbook.sheetnames)}"


FORMATS: dict[str, formats.Check] = {
    **formats.TEXT,
    "fill": formats.color,
    "align": formats.one_of("left", "center", "right", "justify", "general"),
    "valign": formats.one_of("top", "center", "bottom"),
    "wrap": formats.boolean,
    "number_format": formats.text,
    "merge": formats.boolean,
    "width": formats.size,
    "height": formats.size,
}
READING: Mapping[str, Callable[..., str]] = {
    "overview": overview,
    "find_text": find_text,
    "read_cells": read_cells,
    "read_styles": read_styles,
}
WRITING: Mapping[str, Callable[..., str]] = {
    "set_cell": set_cell,
    "format_cells": format_cells,
    "change_sheets": change_sheets,
}


def _check_merged(content: bytes) -> None:
    cells = 0
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for name in archive.namelist():
            for found in _MERGED.finditer(archive.read(name)) if name.endswith(".xml") else ():
                left, top, right, bottom = range_boundaries(found[1].decode())
                cells += (right - left + 1) * (bottom - top + 1)
    if cells > MAX_MERGED:
        raise ToolError(f"its merged ranges have {cells} cells; {MAX_MERGED} at most are read")


def _sheet(workbook: Workbook, name: str) -> Worksheet:
    for sheet in workbook.worksheets:
        if sheet.title == name:
            return sheet
    raise ToolError(f"no sheet {name!r:.60}: there are {', '.join(workbook.sheetnames)}"[:500])


def _cells(sheet: Worksheet, cells: str, limit: int = MAX_CELLS) -> Iterator[Cell | MergedCell]:
    try:
        left, top, right, bottom = range_boundaries(cells.upper().replace("$", ""))
        if left is top is None:
            raise ValueError
    except (ValueError, TypeError):
        raise ToolError(f"no range {cells!r:.60}: such as A1, A1:C9 or A:C is wanted") from None
    if None in (left, top, right, bottom):
        # Whole columns or rows end where the sheet's content does.
        left, right = left or 1, right or sheet.max_column
        top, bottom = top or 1, bottom or sheet.max_row
    count = (right - left + 1) * (bottom - top + 1)
    if count > limit:
        raise ToolError(f"{cells} has {count} cells; {limit} at most, so ask for a part")
    for row in sheet.iter_rows(top, bottom, left, right):
        yield from row


def _value(text: str) -> Any:
    if text == "":
        return None
    if text.upper() in ("TRUE", "FALSE"):
        return text.upper() == "TRUE"
    for read in (int, float):
        try:
            number = read(text)
        except ValueError:
            continue
        # "1_000", "nan" and "infinity" are numbers to Python alone.
        return number if text.strip("+-.0123456789eE") == "" else text
    return text


def _show(value: Any) -> str:
    if isinstance(value, datetime.date | datetime.time | datetime.timedelta):
        return str(value)
    if isinstance(value, str | int | float | bool) or value is None:
        return json.dumps(value, ensure_ascii=False)
    text = getattr(value, "text", None)  # of an array formula
    return json.dumps(text if isinstance(text, str) else str(value), ensure_ascii=False)


def _font(old: Font, wanted: Mapping[str, Any]) -> Font:
    font = copy.copy(old)
    for ours, theirs in (("font", "name"), ("size", "sz"), ("color", "color")):
        if ours in wanted:
            setattr(font, theirs, wanted[ours])
    for name in ("bold", "italic", "strike"):
        if name in wanted:
            setattr(font, name, wanted[name])
    if "underline" in wanted:
        font.underline = "single" if wanted["underline"] else None
    return font


def _style(cell: Cell) -> str:
    font, alignment = cell.font, cell.alignment
    notes = [f"{font.name} {font.sz:g}" if font.sz else f"{font.name}"]
    notes += [name for name in ("bold", "italic", "strike") if getattr(font, name)]
    if font.underline:
        notes.append(f"underline {font.underline}")
    if font.color is not None:
        notes.append(f"color {_color(font.color)}")
    if cell.fill.fill_type:
        notes.append(f"fill {_color(cell.fill.fgColor)}")
    for name, value in (("align", alignment.horizontal), ("valign", alignment.vertical)):
        if value:
            notes.append(f"{name} {value}")
    if alignment.wrap_text:
        notes.append("wrap")
    if cell.number_format != "General":
        notes.append(f"number format {cell.number_format!r}")
    sides = {
        side: getattr(cell.border, side).style
        for side in ("left", "right", "top", "bottom")
        if getattr(cell.border, side) is not None and getattr(cell.border, side).style
    }
    notes += [f"border {side} {style}" for side, style in sides.items()]
    return ", ".join(notes)


def _color(color: Any) -> str:
    if color.type == "rgb":
        return f"#{str(color.rgb)[-6:]}"
    return f"{color.type} {color.theme if color.type == 'theme' else color.indexed}"


def _chart(chart: Any) -> str:
    series = [
        str(entry.val.numRef.f) for entry in chart.series if getattr(entry, "val", None) is not None
    ]
    title = _chart_title(chart.title)
    return f"{type(chart).__name__} {title!r} at {_anchor(chart)}, series {'; '.join(series)}"


def _chart_title(title: Any) -> str:
    try:
        paragraphs = title.tx.rich.p
        return "\n".join("".join(run.t for run in p.r or []) for p in paragraphs)
    except AttributeError:
        return ""


def _anchor(drawing: Any) -> str:
    try:
        corner = drawing.anchor._from
        return f"{get_column_letter(corner.col + 1)}{corner.row + 1}"
    except AttributeError:
        return "a place of its own"
