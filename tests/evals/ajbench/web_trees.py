"""A hand-made Search file in the layout of the official repository, and the web it is about."""

import json

PAGES = {
    "https://rivers.example/": (
        "index.html",
        "<title>Rivers</title><h1>Rivers of Europe</h1><p>A list of long rivers.</p>"
        "<ul><li><a href='danube'>Danube</a><li><a href='/rhine?x=1#top'>Rhine</a>"
        "<li><a href='https://elsewhere.example/'>elsewhere</a></ul>"
        "<script>document.title = 'Rivers, scripted'</script><!-- secret comment -->",
    ),
    "https://rivers.example/danube": (
        "pages/danube.html",
        "<title>Danube</title><p>The Danube is <b>2850</b> km long and ends in the Black Sea.</p>"
        "<table><tr><th>source</th><td>Breg</td></tr><tr><th>mouth</th><td>Black Sea</td></tr>"
        "</table><img src='/map.png' alt='a map'><p hidden>hidden text</p>",
    ),
    "https://rivers.example/rhine?x=1": (
        "pages/rhine.txt",
        "The Rhine is 1233 km long.\nIt ends in the North Sea.\n" + "filler text. " * 1000,
    ),
    "https://rivers.example/map.png": ("map.png", "no real picture"),
}
ROWS = [
    {"query": "Long rivers", "single_row": {"river": "Danube", "km": 2850}, "label": 1},
    {"query": "Long rivers", "single_row": {"river": "Rhine", "km": 2850}, "label": 0},
]


def make(root, web=None):
    """src/data with both Search files; the snapshot is beside it in web/, if not elsewhere."""
    (root / "Search").mkdir(parents=True)
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    (root / "Search" / "wide_llm_judge_single_row.jsonl").write_text(lines)
    (root / "Search" / "deep_llm_judge_single_row.json").write_text(json.dumps(ROWS))
    web = root / "web" if web is None else web
    (web / "pages").mkdir(parents=True)
    index = [{"url": "http://www.rivers.example", "redirect": "https://rivers.example/"}]
    for url, (name, content) in PAGES.items():
        (web / name).write_text(content)
        index.append({"url": url, "file": name})
    (web / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in index))
    return root
