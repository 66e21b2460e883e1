"""PowerPoint files through python-pptx: slides, shapes with place and text, notes.

Slides are numbered from 1 and shapes by the id that the file gives them. Places and sizes are in
points.
"""

import io
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pptx
from pptx import util
from pptx.dml import color as colors
from pptx.dml.color import RGBColor
from pptx.enum.text import PP_ALIGN
from pptx.oxml.ns import qn
from pptx.presentation import Presentation
from pptx.shapes.group import GroupShape
from pptx.slide import Slide
from pptx.util import Pt

from jaxlab.evals.ajbench.office import formats, letters
from jaxlab.evals.ajbench.office.letters import points
from jaxlab.evals.ajbench.sandbox.limits import ToolError

MAX_SHAPES = 500  # of a slide


def load(content: bytes) -> Presentation:
    """The presentation."""
    return pptx.Presentation(io.BytesIO(content))


def save(presentation: Presentation) -> bytes:
    """The file."""
    out = io.BytesIO()
    presentation.save(out)
    return out.getvalue()


def overview(presentation: Presentation) -> str:
    """Size, layouts, and a line for each slide."""
    width, height = presentation.slide_width, presentation.slide_height
    layouts = [layout.name for layout in presentation.slide_layouts]
    lines = [
        f"{len(presentation.slides)} slides of {points(width)} x {points(height)} pt",
        f"layouts: {', '.join(layouts)}",
    ]
    for number, slide in enumerate(presentation.slides, start=1):
        title = slide.shapes.title
        notes = [
            f"slide {number}",
            f"layout {slide.slide_layout.name!r}",
            f"title {title.text_frame.text!r}" if title is not None else "no title",
            f"{len(slide.shapes)} shapes",
        ]
        if slide.has_notes_slide:
            notes.append("notes")
        if slide._element.get("show") == "0":
            notes.append("hidden")
        if slide._element.find(qn("p:transition")) is not None:
            notes.append("transition")
        if slide._element.find(qn("p:timing")) is not None:
            notes.append("animation")
        lines.append(", ".join(notes))
    return "\n".join(lines)


def read_slide(presentation: Presentation, slide: str) -> str:
    """Everything on a slide: background, shapes with place, text and formats, notes."""
    found = _slide(presentation, slide)
    lines = [f"layout {found.slide_layout.name!r}", f"background {_background(found)}"]
    for depth, shape in _shapes(found):
        lines += [f"{'  ' * depth}{line}" for line in _shape(shape)]
    if found.has_notes_slide:
        frame = found.notes_slide.notes_text_frame
        lines.append(f"notes {frame.text if frame is not None else ''!r}")
    return "\n".join(lines)


def find_text(presentation: Presentation, text: str) -> str:
    """Shapes, table cells and notes that hold a text, in any case."""
    wanted = text.casefold()
    lines = []
    for number, slide in enumerate(presentation.slides, start=1):
        for _, shape in _shapes(slide):
            for content in _texts(shape):
                if wanted in content.casefold():
                    lines.append(f"slide {number}, shape {shape.shape_id}: {content}")
        if slide.has_notes_slide and slide.notes_slide.notes_text_frame is not None:
            content = slide.notes_slide.notes_text_frame.text
            if wanted in content.casefold():
                lines.append(f"slide {number}, notes: {content}")
    return "\n".join(lines) or "not found"


def set_shape_text(presentation: Presentation, slide: str, shape: str, text: str) -> str:
    """Replace a shape's text; a line break begins a paragraph."""
    found = _by_id(_slide(presentation, slide), shape)
    if not found.has_text_frame:
        raise ToolError(f"shape {shape} holds no text")
    found.text_frame.text = text
    return f"shape {found.shape_id} is {text!r:.100}"


def format_shape(presentation: Presentation, slide: str, shape: str, format: str) -> str:
    """Change a shape's place, size, fill and letters; see `FORMATS`."""
    found = _by_id(_slide(presentation, slide), shape)
    wanted = formats.parse(format, FORMATS)
    # A placeholder inherits its frame until one side is set; the other three would then be 0.
    frame = {name: getattr(found, name) for name in FRAME}
    for name in FRAME if wanted.keys() & FRAME.keys() else ():
        setattr(found, name, Pt(wanted[name]) if name in wanted else frame[name])
    if "fill" in wanted:
        if not hasattr(found, "fill"):
            raise ToolError(f"shape {shape} has no fill")
        found.fill.solid()
        found.fill.fore_color.rgb = RGBColor.from_string(wanted["fill"])
    of_text = wanted.keys() & {*formats.TEXT, "align"}
    if of_text and not found.has_text_frame:
        raise ToolError(f"shape {shape} holds no text")
    for paragraph in found.text_frame.paragraphs if of_text else ():
        if "align" in wanted:
            paragraph.alignment = getattr(PP_ALIGN, wanted["align"].upper())
        for run in paragraph.runs:
            letters.change(run.font, wanted, util, colors)
    return "\n".join(_shape(found))


def set_notes(presentation: Presentation, slide: str, text: str) -> str:
    """Replace a slide's notes."""
    frame = _slide(presentation, slide).notes_slide.notes_text_frame
    if frame is None:
        raise ToolError("the notes page of this slide has no place for text")
    frame.text = text
    return f"notes are {text!r:.100}"


def set_background(presentation: Presentation, slide: str, color: str) -> str:
    """Fill a slide's background with a colour such as #FF0000."""
    try:
        wanted = RGBColor.from_string(formats.color(color))
    except ValueError as error:
        raise ToolError(str(error)) from None
    found = _slide(presentation, slide)
    found.background.fill.solid()
    found.background.fill.fore_color.rgb = wanted
    return f"background {_background(found)}"


def change_slides(presentation: Presentation, action: str, slide: str, value: str) -> str:
    """Add a slide with the layout named by `value` as number `slide`; delete; move to `value`."""
    entries = presentation.slides._sldIdLst
    count = len(presentation.slides)
    if action == "add":
        place = formats.number(slide, 1, count + 1)
        layout = presentation.slide_layouts.get_by_name(value)
        if layout is None:
            raise ToolError(f"no layout {value!r:.60} in this presentation")
        presentation.slides.add_slide(layout)
        entries.insert(place - 1, entries[-1])
    elif action in ("delete", "move"):
        entry = entries[formats.number(slide, 1, count) - 1]
        if action == "delete":
            presentation.part.drop_rel(entry.rId)
            entries.remove(entry)
        else:
            place = formats.number(value, 1, count)
            entries.remove(entry)
            entries.insert(place - 1, entry)
    else:
        raise ToolError(f"no action {action!r:.60}: add, delete or move")
    return overview(presentation)


FRAME: dict[str, formats.Check] = {
    "left": formats.place,
    "top": formats.place,
    "width": formats.size,
    "height": formats.size,
}
FORMATS: dict[str, formats.Check] = {
    **{name: check for name, check in formats.TEXT.items() if name != "strike"},
    "align": formats.one_of(*letters.ALIGNMENTS),
    "fill": formats.color,
    **FRAME,
}
READING: Mapping[str, Callable[..., str]] = {
    "overview": overview,
    "find_text": find_text,
    "read_slide": read_slide,
}
WRITING: Mapping[str, Callable[..., str]] = {
    "set_shape_text": set_shape_text,
    "format_shape": format_shape,
    "set_notes": set_notes,
    "set_background": set_background,
    "change_slides": change_slides,
}


def _slide(presentation: Presentation, number: str) -> Slide:
    slides = list(presentation.slides)
    return slides[formats.number(number, 1, len(slides)) - 1]


def _shapes(slide: Slide) -> Iterator[tuple[int, Any]]:
    """Shapes and those in groups, with the depth; `MAX_SHAPES` at most."""
    stack = [(0, shape) for shape in reversed(list(slide.shapes))]
    for _ in range(MAX_SHAPES):
        if not stack:
            return
        depth, shape = stack.pop()
        yield depth, shape
        if isinstance(shape, GroupShape):
            stack += [(depth + 1, inner) for inner in reversed(list(shape.shapes))]


def _by_id(slide: Slide, identity: str) -> Any:
    for _, shape in _shapes(slide):
        if str(shape.shape_id) == identity.strip():
            return shape
    known = ", ".join(str(shape.shape_id) for _, shape in _shapes(slide))
    raise ToolError(f"no shape {identity!r:.60} on this slide: there are {known}"[:500])


def _shape(shape: Any) -> list[str]:
    notes = [f"shape {shape.shape_id} {shape.name!r}", _kind(shape)]
    if shape.is_placeholder:
        notes[-1] += f" {shape.placeholder_format.type.name.lower()}"
    notes.append(
        f"at {points(shape.left)}, {points(shape.top)} size {points(shape.width)} x "
        f"{points(shape.height)} pt"
    )
    if getattr(shape, "rotation", 0):
        notes.append(f"rotated {shape.rotation:g}")
    fill = _fill(getattr(shape, "fill", None))
    if fill:
        notes.append(f"fill {fill}")
    link = getattr(getattr(shape, "click_action", None), "hyperlink", None)
    if link is not None and link.address:
        notes.append(f"link {link.address!r}")
    lines = [", ".join(notes)]
    if shape.has_text_frame:
        for paragraph in shape.text_frame.paragraphs:
            marks = [f"level {paragraph.level}"] if paragraph.level else []
            if paragraph.alignment is not None:
                marks.append(f"align {paragraph.alignment.name.lower()}")
            lines.append(
                f"  [{', '.join(marks)}] {paragraph.text}" if marks else f"  {paragraph.text}"
            )
            lines += [f"    {run.text!r} {note}" for run in paragraph.runs if (note := _run(run))]
    if shape.has_table:
        for row in shape.table._tbl.tr_lst:
            lines.append("  " + " | ".join(_cell(cell) for cell in row.tc_lst))
    if shape.has_chart:
        chart = shape.chart
        lines.append(f"  chart {chart.chart_type.name.lower()}")
        for plot in chart.plots:
            lines += [
                f"  series {series.name!r} {list(series.values)[:50]}" for series in plot.series
            ]
    return lines


def _kind(shape: Any) -> str:
    try:
        return str(shape.shape_type.name).lower().replace("_", " ")
    except (AttributeError, NotImplementedError):  # python-pptx does not know every kind
        return "shape of an unknown type"


def _cell(cell: Any) -> str:
    """Text of a table's cell, straight from the XML: spans are the file's word."""
    return "\n".join("".join(t.text or "" for t in p.iter(qn("a:t"))) for p in cell.iter(qn("a:p")))


def _texts(shape: Any) -> Iterator[str]:
    if shape.has_text_frame:
        yield shape.text_frame.text
    if shape.has_table:
        for row in shape.table._tbl.tr_lst:
            yield from map(_cell, row.tc_lst)


def _run(run: Any) -> str:
    font = run.font
    notes = letters.notes(font, ("bold", "italic", "underline"))
    if run._r.rPr is not None and run._r.rPr.get("strike") not in (None, "noStrike"):
        notes.append("strike")
    # font.color itself would write a fill into the file where there is none.
    solid = run._r.rPr.find(qn("a:solidFill")) if run._r.rPr is not None else None
    if solid is not None:
        notes.append(f"color {_color(font.color)}")
    if run.hyperlink.address:
        notes.append(f"link {run.hyperlink.address!r}")
    return ", ".join(notes)


def _background(slide: Slide) -> str:
    if slide.follow_master_background:
        return "of the master"
    return _fill(slide.background.fill) or "of its own"


def _fill(fill: Any) -> str:
    """A solid fill's colour, or the kind of fill; "" where the shape inherits it."""
    if fill is None or fill.type is None:
        return ""
    name = str(fill.type.name).lower()
    return _color(fill.fore_color) if name == "solid" else name


def _color(color: Any) -> str:
    if color.type is None:
        return "unknown"
    return (
        f"#{color.rgb}" if color.type.name == "RGB" else f"theme {color.theme_color.name.lower()}"
    )
