"""Figures as parts of a page: points where they are drawn, colours of the page, one line each."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

import pytest

from rocktok.report.page import figures
from rocktok.report.page.drawing import POINTS, draw_one
from rocktok.report.page.figures import FIGURES
from rocktok.report.page.figures.takeaways import takeaway
from rocktok.report.page.files import figure_numbers
from rocktok.report.page.inline import inline
from rocktok.report.result import ReportResult
from tests.report.samples import sample_report

HREF = "{http://www.w3.org/1999/xlink}href"


@pytest.fixture(scope="module")
def sample() -> ReportResult:
    return sample_report()


def test_points_lie_where_the_svg_draws_them(sample: ReportResult) -> None:
    numbers = figures.early_late.numbers(sample)
    drawn = draw_one("early_late", numbers, ())
    points = json.loads(drawn[POINTS])
    by_id = {point["token_id"]: point for point in numbers["points"]}
    assert sorted(by_id) == sorted(point["token_id"] for point in points)
    uses = [
        (float(use.get("x", "nan")), float(use.get("y", "nan")))
        for use in ElementTree.fromstring(drawn["svg"]).iter("{http://www.w3.org/2000/svg}use")
        if use.get(HREF) and use.get("x")
    ]
    for point in points:
        assert min(abs(point["x"] - x) + abs(point["y"] - y) for x, y in uses) < 0.05
        held = by_id[point["token_id"]]
        assert point["values"] == [
            ["mean loss at step 8 (nats)", pytest.approx(held["loss_pre"])],
            ["mean loss at step 500 (nats)", pytest.approx(held["loss_post"])],
        ]
    # The further right, the larger the earlier loss; the further up, the larger the later.
    for axis, key, sign in (("x", "loss_pre", 1), ("y", "loss_post", -1)):
        order = sorted(points, key=lambda p: sign * p[axis])
        values = [by_id[p["token_id"]][key] for p in order]
        assert all(a <= b * 1.02 for a, b in pairwise(values))


def test_points_of_strips_say_their_value_alone(sample: ReportResult) -> None:
    numbers = figures.delta_kl.numbers(sample)
    points = json.loads(draw_one("delta_kl", numbers, ())[POINTS])
    said = sorted((p["token_id"], p["values"][0][1]) for p in points)
    assert all(len(p["values"]) == 1 for p in points)
    assert said == sorted(
        (one["token_id"], pytest.approx(one["value"]))
        for group in numbers["groups"] for one in group["types"]
    )  # fmt: skip


@pytest.mark.parametrize("name", ["funnel", "sensitivity", "clusters"])
def test_an_inline_figure_is_the_pages(sample: ReportResult, name: str) -> None:
    numbers = figure_numbers(sample)[name]
    svg = draw_one(name, numbers, ())["svg"].decode()
    found = inline(svg, name)
    root = ElementTree.fromstring(found)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', found))
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert set(ids) == used and len(ids) == len(set(ids))
    assert all(one.startswith(f"{name}-") for one in used)
    for element in root.iter():
        assert "style" not in element.attrib
        assert not any(key.startswith("on") for key in element.attrib)
        assert element.tag not in ("script", "style", "metadata", "foreignObject")
    # What stands on a colour of the figure keeps its own; nothing else is black or white.
    cells = numbers["cells"] if name == "sensitivity" else []
    light = sum(cell["jaccard"] is not None and cell["jaccard"] > 0.55 for cell in cells)
    assert found.count("#000000") == len(cells)
    assert found.count("#ffffff") == light
    assert inline(svg, name) == found


def test_a_name_that_means_harm_is_no_markup() -> None:
    svg = '<svg xmlns="http://www.w3.org/2000/svg"><g id="a"/><g clip-path="url(#a)"/></svg>'
    found = inline(svg, '"><script>', [{"token_id": 3, "x": 1.0, "y": 2.0,
                                         "values": [("<b>\n\t", 0.5)]}])  # fmt: skip
    root = ElementTree.fromstring(found)
    assert [element.tag for element in root.iter()] == ["svg", "g", "g", "circle"]
    assert root[0].get("id") == "---script--a"
    assert root[1].get("clip-path") == "url(#---script--a)"


# -- what figures come to ---------------------------------------------------------------------


def test_takeaways_by_hand() -> None:
    def two(a: float, b: float, *, rock: bool) -> dict[str, Any]:
        return {"loss_pre": a, "loss_post": b, "is_rock": rock}

    rocks = [two(2, 1, rock=True), two(1, 0.9, rock=True), two(4, 3, rock=True)]
    others = [two(1, 0.1, rock=False), two(1, 0.2, rock=False), two(1, 0.4, rock=False)]
    numbers = {"pre": 1, "post": 9, "points": rocks + others}
    assert takeaway("early_late", numbers) == (
        "Rocks are hard at both steps by choice: median 2.00 nats at step 1, 1.00 at 9"
    )
    assert takeaway("early_late", {**numbers, "points": rocks[:2] + others}) is None
    others.append(two(1, 1.5, rock=False))
    assert takeaway("early_late", {**numbers, "points": others, "types": 4}) == (
        "3 of 4 frequent types have a lower mean loss at step 9 than at 1"
    )
    assert takeaway("early_late", {**numbers, "points": others, "types": 5}) is None

    def line(group: str, share: float | None, low: float | None = None) -> dict[str, Any]:
        high = None if low is None else 0.9
        return {"group": group, "kept": {"share": share, "low": low, "high": high}}

    lines = [line("all positions", 0.5), line("rocks", 0.75, 0.6)]
    assert takeaway("stagnation", {"lines": lines, "pre": 5, "post": 9}) == (
        "From step 5 to 9, rocks keep 75% (60% to 90%) of their loss, all positions 50%"
    )
    assert takeaway("stagnation", {"lines": [lines[0], line("high_loss", 0.84)], "pre": 5,
                                   "post": 9}) == (
        "From step 5 to 9, the types with the most loss keep 84% of their loss, all positions 50%"
    )  # fmt: skip
    lines[1] = line("rocks", None)
    assert takeaway("stagnation", {"lines": lines, "pre": 5, "post": 9}) is None
    # Numbers of an older report.json do not say.
    older = [{"group": one["group"]} for one in lines]
    assert takeaway("stagnation", {"lines": older}) is None
    assert takeaway("stagnation", {"lines": older, "pre": 5, "post": 9}) is None

    groups = [{"group": "rocks", "types": [1, 2, 3], "median": -0.5},
              {"group": "random", "types": [1, 2], "median": 1.0}]  # fmt: skip
    said = "Median change of the loss: −0.500 nats for rocks"
    assert takeaway("delta_kl", {"groups": groups}) == said
    groups[1]["types"] = [1, 2, 3]
    assert takeaway("delta_kl", {"groups": groups}) == f"{said}, 1.00 for random types"
    groups[1]["types"] = [1, 2]
    assert takeaway("delta_kl", {"groups": groups[1:]}) is None


def test_takeaways_are_of_the_numbers(sample: ReportResult) -> None:
    numbers = figure_numbers(sample)
    said = {name: takeaway(name, one) for name, one in numbers.items()}
    assert set(said) == {figure.name for figure in FIGURES}
    assert all(text and not text.endswith(".") and "\n" not in text for text in said.values())
    learning = sample.stagnation
    assert learning is not None
    rocks = next(row for row in learning.groups if row["group"] == "rocks")
    kept, low, high = (100 * rocks[f"stagnation{end}"] for end in ("", "_low", "_high"))
    assert f"rocks keep {kept:.0f}% ({low:.0f}% to {high:.0f}%)" in str(said["stagnation"])
    assert f"all positions {100 * learning.corpus['stagnation']:.0f}%" in str(said["stagnation"])
    share = sum(row["loss_share"] for row in sample.detect.rocks)
    top = max(numbers["clusters"]["clusters"], key=lambda row: row["loss_share"])
    assert said["clusters"] == (
        f"{100 * top['loss_share'] / share:.0f}% of the rocks' loss lies on {top['cluster']}"
    )


def test_a_median_of_two_is_not_drawn() -> None:
    types = [{"token_id": i, "value": float(i)} for i in range(3)]
    few = {"group": "rocks", "types": types[:2], "median": 0.5}
    more = {"group": "random", "types": types, "median": 1.0}
    figure = figures.delta_kl({"pre": 0, "post": 1, "table": "fixed", "groups": [few, more],
                               "chosen": True})  # fmt: skip
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.get_xticklabels()] == [
        "rocks\n(2: too few)", "random\n(3)"]  # fmt: skip
    assert len(axes.collections) == 1
    curve = [{"step": step, "loss": 1.0, "low": 0.5, "high": 2.0} for step in (0, 1)]
    sizes = {"all positions": None, "rocks": 2, "random": 3}
    lines = [{"group": group, "types": types, "curve": curve} for group, types in sizes.items()]
    axes = figures.stagnation({"lines": lines}).axes[0]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["all positions", "rocks (2: too few)", "random (3)"]
    assert len(axes.collections) == 2
