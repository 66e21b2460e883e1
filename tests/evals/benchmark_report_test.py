import pytest

from jaxlab.evals import benchmark_report
from jaxlab.evals.math import metrics
from jaxlab.evals.results import Result

pytestmark = pytest.mark.usefixtures("drawn")


def _report(workdir, levels):
    """The files of a report over two rows of each level; the plot's height and width in pixels."""
    import matplotlib.image

    results = [
        Result(f"{i}-{j}", 1, j == 0, "a", "match", "rule", f"{i}-{j}", {"level": level})
        for i, level in enumerate(levels)
        for j in range(2)
    ]
    workdir.mkdir()
    benchmark_report.write(workdir, "title", {}, results, metrics.tables)
    plot = workdir / "groups.png"
    text = (workdir / "report.md").read_text()
    return text, matplotlib.image.imread(plot).shape[:2] if plot.exists() else None


def test_names_of_groups_may_be_anything(tmp_path):
    names = ["$\\frac{a$", "$x^$", "a|b", "x" * 300]
    text, (_, width) = _report(tmp_path / "run", names)
    assert all(f"| {name} | 2 |" in text for name in ("$\\frac{a$", "$x^$", "a\\|b", "x" * 300))
    assert width == _report(tmp_path / "short", ["a", "b", "c", "d"])[1][1]


def test_so_many_groups_are_a_table_alone(tmp_path):
    text, plot = _report(tmp_path / "run", map(str, range(1000)))
    assert "| 999 | 2 |" in text
    assert plot is None
    assert "groups.png" not in text
    assert _report(tmp_path / "few", map(str, range(40)))[1] is not None
