"""Links and names of files in README, CONTRIBUTING and docs lead to what is there."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    text = page.read_text()
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    missing = [link for link in links if not (page.parent / link.partition("#")[0]).exists()]
    assert missing == []


# CONTRIBUTING's recipes name files that are to be written.
@pytest.mark.parametrize("page", [PAGES[0], *PAGES[2:]], ids=lambda page: page.stem)
def test_configs_and_benchmarks_that_are_named_exist(page):
    names = re.findall(r"\b(?:configs|benchmarks|colabs)/[\w/]+\.(?:py|ipynb)\b", page.read_text())
    missing = [name for name in names if "NAME" not in name and not (ROOT / name).exists()]
    assert missing == []


def test_every_page_is_linked_from_another():
    texts = {page: page.read_text() for page in PAGES}
    lonely = [
        page.name
        for page in PAGES[2:]
        if not any(f"{page.name})" in text for other, text in texts.items() if other != page)
    ]
    assert lonely == []
