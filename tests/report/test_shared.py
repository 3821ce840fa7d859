"""What a report finds once for several of its parts, and tells before it is complete."""

from __future__ import annotations

from functools import cache

import rocktok
from rocktok.engine.passes import Engine
from rocktok.report.page.drawing import Drawing
from rocktok.report.page.figures import FIGURES
from rocktok.report.page.files import add_figures, figure_numbers
from rocktok.report.passes import report
from rocktok.report.result import ReportResult, Told
from tests.paths import SAMPLE


@cache
def two_steps() -> tuple[ReportResult, list[Told], Engine]:
    """A report of the first two steps of the sample, what it told on the way, and its engine."""
    engine, told = Engine(jobs=1), list[Told]()
    result = report(SAMPLE, pre=8, post=100, replicates=100, engine=engine, tell=told.append)
    return result, told, engine


def test_thresholds_of_the_lenses_come_from_the_passes_of_detect() -> None:
    result, _, engine = two_steps()
    both = {"report: detect", "report: lenses"}
    assert len([made for made in engine.made if both <= set(made.names)]) == 4
    assert not [made for made in engine.made if made.names == ("report: lenses",)]
    with Engine(jobs=1) as another:
        alone = rocktok.lenses(SAMPLE, detected=result.detect, replicates=100, engine=another)
    found = next(o.result for o in result.others if o.analysis.name == "lenses")
    assert found is not None
    assert found.to_dict()["lenses"] == alone.to_dict()["lenses"]


def test_rocks_of_half_the_prompts_are_searched_once() -> None:
    result, _, engine = two_steps()
    assert result.attribute is not None
    assert result.attribute.log["chosen_at"] == [8, 100]
    own = [made for made in engine.made if set(made.names) == {"report: attribute: attribute"}]
    assert all(len(made.steps) == 1 for made in own)
    alone = rocktok.attribute(SAMPLE, detected=result.detect, step=100, replicates=100)
    assert alone.adjusted is not None
    assert result.attribute.adjusted == alone.adjusted
    assert result.attribute.tests == alone.tests
    assert result.detect.totals == rocktok.detect(SAMPLE, pre=8, post=100, lifts=True).totals


def test_what_a_report_tells_has_the_figures_that_it_ends_with() -> None:
    result, told, _ = two_steps()
    preview = next(each for each in told if isinstance(each, ReportResult))
    assert preview.attribute is preview.stagnation is preview.stability is preview.texts is None
    drawing = Drawing(("svg",))
    for each in told:
        add_figures(drawing, each)
    numbers = figure_numbers(result)
    assert {figure.name for figure in FIGURES if figure.part is None} & set(numbers)
    assert drawing.numbers == numbers


def test_a_figure_whose_numbers_change_is_drawn_again() -> None:
    result, _, _ = two_steps()
    numbers = figure_numbers(result)["position"]
    drawing = Drawing(("svg",))
    drawing.add("position", {**numbers, "post": 7})
    before = drawing.drawn()["position"]["svg"]
    drawing.add("position", numbers)
    assert drawing.drawn()["position"]["svg"] != before
