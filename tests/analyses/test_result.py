"""What all results share: schema, JSON, and how they show themselves."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from importlib import import_module
from pkgutil import walk_packages
from typing import Any, ClassVar

import pytest

import rocktok
import rocktok.analyses
from rocktok.analyses.compare.rankings import Ranking, compare_rankings
from rocktok.analyses.info.passes import info as rocktok_info
from rocktok.analyses.result import Result, table_module
from tests.paths import SAMPLE


def _compared(log: rocktok.Log) -> Any:
    found = rocktok.detect(log, context="off").to_dict()
    return compare_rankings([Ranking.of(name, found) for name in ("<a>", "b")], {})


#: Command → a result of it, and a column that its table in a notebook has.
RESULTS: dict[str, tuple[Callable[[rocktok.Log], Any], str]] = {
    "detect": (lambda log: rocktok.detect(log, context="off"), "loss_share"),
    "attribute": (lambda log: rocktok.attribute(log, rocks=(1, 2), replicates=100), "grad_share"),
    "stagnation": (lambda log: rocktok.stagnation(log, top=3, replicates=100), "stagnation"),
    "stability": (
        lambda log: rocktok.stability(log, context="off", repeats=2, replicates=100),
        "coverage",
    ),
    "controls": (
        lambda log: rocktok.controls(log, rocks=(13, 198), kinds=("frequency",)),
        "control_token_id",
    ),
    "compare": (_compared, "jaccard"),
    "lenses": (lambda log: rocktok.lenses(log, rocks=(13, 198), replicates=100), "loss_share"),
    "info": (rocktok_info, "superseded_rows"),
}


@pytest.mark.parametrize("command", RESULTS)
def test_every_result_has_json_and_a_table_for_notebooks(command: str) -> None:
    make, column = RESULTS[command]
    result = make(rocktok.open(SAMPLE))
    content = json.loads(result.to_json())
    assert re.fullmatch(rf"rocktok\.{command}/\d+", content["schema"])
    assert list(content)[1] == "log"
    assert set(content) - set(result.about("log")) == {"log"}
    html = result._repr_html_()
    assert f">{column}</th>" in html
    assert html.count("<li>") == len(result.notes)
    assert "<a>" not in html
    # The answer comes first, and is what the terminal shows first.
    printed = table_module(result).render(result)
    assert repr(result) == str(result) == printed.rstrip("\n")
    assert max(map(len, printed.splitlines())) < 200
    assert f"<p><strong>{escape(printed.splitlines()[0])}" in html
    assert len(result.table) > 0


def _results() -> list[type[Result]]:
    """Every class of results, of all modules of analyses."""
    names = {m.name for m in walk_packages(rocktok.analyses.__path__, "rocktok.analyses.")}
    for name in sorted(names):
        import_module(name)
    classes = [Result]
    for one in classes:
        classes += one.__subclasses__()
    return [one for one in classes[1:] if one.__module__ in names]


def test_every_result_has_a_module_that_renders_it() -> None:
    """It is found by its name alone: `table`, beside the module of the class."""
    classes = _results()
    assert {one.SCHEMA.split("/")[0].removeprefix("rocktok.") for one in classes} >= set(RESULTS)
    for one in classes:
        module = table_module(one.__new__(one))
        assert module is not None
        assert callable(module.render)
        # `info` is for reading alone; `occurrences` and `weights` write files of their own.
        own = {"rocktok.info/2", "rocktok.occurrences/1", "rocktok.weights/1"}
        assert callable(getattr(module, "encode", None)) or one.SCHEMA in own
        assert one.__repr__ is Result.__repr__


@dataclass(frozen=True)
class Bare(Result):
    SCHEMA: ClassVar[str] = "rocktok.bare/1"

    rows: tuple[dict[str, Any], ...]
    name: str = "x"

    def shown(self) -> tuple[str, Any]:
        return "two <rows>", self.rows


def test_a_result_without_a_terminal_table_is_a_short_summary() -> None:
    bare = Bare(({"a": 1}, {"a": 2}))
    assert table_module(bare) is None
    assert repr(bare) == "Bare (rows: 2)"
    assert bare.answer() == ["two <rows>"]
    assert "<p><strong>two &lt;rows&gt;</strong></p>" in bare._repr_html_()
    assert bare.table["a"].tolist() == [1, 2]
