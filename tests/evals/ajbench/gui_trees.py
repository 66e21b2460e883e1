"""Hand-made GUI units in the layout of the official repository: two results of one task each."""

import json

import docx
import openpyxl
import pptx
from openpyxl.chart import BarChart, Reference
from pptx.util import Pt

KINDS = {"Word": "report.docx", "Excel": "sales.xlsx", "PPT": "talk.pptx"}
INSTRUCTIONS = {
    "Word": "Make the word 'Results' bold and red.",
    "Excel": "Put the sum of the sales into B5 and show it with two decimals.",
    "PPT": "Title the second slide 'Methods' and add the note 'slow down'.",
}


def word(path, right):
    document = docx.Document()
    document.core_properties.title = "Report"
    document.add_heading("Report", 1)
    paragraph = document.add_paragraph("Our ")
    run = paragraph.add_run("Results")
    if right:
        run.bold = True
        run.font.color.rgb = docx.shared.RGBColor(255, 0, 0)
    paragraph.add_run(" are new.")
    table = document.add_table(2, 2)
    table.cell(0, 0).merge(table.cell(0, 1)).text = "wide"
    table.cell(1, 1).text = "corner"
    section = document.sections[0]
    section.header.paragraphs[0].text = "confidential"
    document.save(path)


def excel(path, right):
    workbook = openpyxl.Workbook()
    sheet = workbook.active
    sheet.title = "Sales"
    for row in (["month", "sales"], ["May", 10], ["June", 20], ["July", 12.5]):
        sheet.append(row)
    sheet["A1"].font = openpyxl.styles.Font(bold=True, name="Arial", size=14, color="FF0000FF")
    sheet["A1"].fill = openpyxl.styles.PatternFill("solid", fgColor="FFFFFF00")
    sheet["A1"].alignment = openpyxl.styles.Alignment(horizontal="center", wrap_text=True)
    sheet.merge_cells("D1:E2")
    sheet.column_dimensions["A"].width = 30
    chart = BarChart()
    chart.title = "Sales by month"
    chart.add_data(Reference(sheet, min_col=2, min_row=1, max_row=4), titles_from_data=True)
    sheet.add_chart(chart, "G3")
    if right:
        sheet["B5"] = "=SUM(B2:B4)"
        sheet["B5"].number_format = "0.00"
    hidden = workbook.create_sheet("Notes")
    hidden.sheet_state = "hidden"
    hidden["C3"] = "Draft"
    workbook.save(path)


def slides(path, right):
    presentation = pptx.Presentation()
    for title in ("Talk", "Methods" if right else "Method"):
        slide = presentation.slides.add_slide(presentation.slide_layouts[5])
        slide.shapes.title.text = title
    box = slide.shapes.add_textbox(Pt(100), Pt(200), Pt(300), Pt(50))
    run = box.text_frame.paragraphs[0].add_run()
    run.text, run.font.size, run.font.italic = "small print", Pt(9), True
    table = slide.shapes.add_table(2, 2, Pt(0), Pt(300), Pt(200), Pt(80)).table
    table.cell(1, 1).text = "corner"
    slide.notes_slide.notes_text_frame.text = "slow down" if right else "hurry"
    presentation.save(path)


MAKERS = {"Word": word, "Excel": excel, "PPT": slides}


def make(root, steps=None):
    """src/data with one task per kind; `steps` are the lines of every trajectory."""
    lines = steps or [
        {
            "step_num": 1,
            "action": "pyautogui.click(10, 20)",
            "response": "I click.",
            "done": False,
            "screenshot_file": "step_1.png",
        },
        {"step_num": 2, "action": "DONE", "response": "It is done.", "done": True, "reward": 1},
    ]
    for kind, name in KINDS.items():
        home = root / "GUI" / kind / "0a-1"
        for label in ("true", "false"):
            folder = home / label
            folder.mkdir(parents=True)
            MAKERS[kind](folder / name, label == "true")
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (folder / "traj.jsonl").write_text(text)
            (folder / "step_1.png").write_bytes(b"\x89PNG")
            # OSWorld's runner leaves the score beside the result.
            (folder / "result.txt").write_text(str(float(label == "true")))
        definition = {
            "id": "0a-1",
            "snapshot": "libreoffice",
            "instruction": INSTRUCTIONS[kind],
            "config": [{"type": "open", "parameters": {"path": f"/home/user/{name}"}}],
            "evaluator": {
                "func": "compare",
                "result": {"type": "vm_file", "path": f"/home/user/{name}", "dest": name},
                "expected": {"type": "cloud_file", "path": f"https://x.example/gold_{name}"},
            },
        }
        (home / "0a-1.json").write_text(json.dumps(definition))
    return root


PAGE = """<!doctype html><title>Names</title>
<style>* {margin: 0} input, button {position: absolute; left: 100px; width: 200px; height: 40px}
</style><input id=name aria-label=name style="top: 100px"><p id=saved>nothing saved</p>
<button style="top: 200px" onclick="saved.textContent = 'saved ' + document.getElementById('name')
.value">Save</button>"""


def make_page(root, states):
    """A unit of one's own on a page: the recorded clicks are run again in a browser."""
    home = root / "GUI" / "Page" / "save-name"
    for label, name in (("true", "ada"), ("false", "adam")):
        actions = [
            "pyautogui.click(150, 120)",
            f"pyautogui.typewrite('{name}')",
            "pyautogui.click(150, 220)",
            "DONE",
        ]
        lines = [{"step_num": i, "action": action} for i, action in enumerate(actions)]
        (home / label).mkdir(parents=True)
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (home / label / "traj.jsonl").write_text(text)
    (home / "task.json").write_text(json.dumps({"instruction": "Save the name 'ada'."}))
    (states / "page" / "save-name").mkdir(parents=True)
    (states / "page" / "save-name" / "index.html").write_text(PAGE)
