"""What the picture of a table shows."""

from __future__ import annotations

import pytest

from mainstay.tune.picture import _name, best_so_far, draw
from mainstay.tune.table import Row, Table
from mainstay.tune.variants import Variant
from mainstay.tune.visiting import About, Visit

START = 1000.0


def row(x: int, *visits: tuple[float, float]) -> Row:
    """A variant whose visits began and lasted 1 s at these times after the start, with these samples (s)."""
    about = About("", "", Variant(x=x), "n1", "kind", 0, START)
    made = {
        number: Visit("ok", about, seconds=(seconds,), began=START + at, lasted=1.0)
        for number, (at, seconds) in enumerate(visits)
    }
    return Row(Variant(x=x), "n1", "kind", "ok", visits=made)


def test_the_best_so_far_is_the_least_median_after_each_visit():
    rows = [row(1, (10, 3.0), (20, 5.0)), row(2, (15, 4.5), (25, 2.0))]
    assert best_so_far(rows) == [(START + 11, 3.0), (START + 16, 3.0), (START + 21, 4.0), (START + 26, 3.25)]


def test_its_time_is_counted_from_the_start_of_the_sweep(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path: drawn.append(figure))
    table = Table([row(1, (10, 3.0), (20, 5.0)), row(2, (15, 4.5), (25, 2.0))])
    assert table.began == START
    draw(table, tmp_path / "it.png")
    axes = drawn[0].axes[-1]
    assert axes.get_xlim()[0] == 0
    assert list(axes.lines[0].get_xdata()) == [11, 16, 21, 26]
    odd = row(3, (5, 1.0))
    odd.variant, odd.status = Variant(flags="-DX=$\\no$"), "crash"
    monkeypatch.undo()
    draw(Table([odd]), tmp_path / "it.png")
    assert _name(odd, 2e3) == r"flags=-DX=\$\no\$ (crash)"
    with pytest.raises(ValueError, match="no samples to draw"):
        draw(Table([]), tmp_path / "none.png")
