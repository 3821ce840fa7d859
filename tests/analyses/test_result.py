"""What all results share: schema, JSON, the table of a notebook."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

import rocktok
from rocktok.analyses.compare.rankings import Ranking, compare_rankings
from rocktok.analyses.info.passes import info as rocktok_info
from tests.paths import SAMPLE


def _compared(log: rocktok.Log) -> Any:
    found = rocktok.detect(log, context="off").to_dict()
    return compare_rankings([Ranking.of(name, found) for name in ("<a>", "b")], {})


#: Command → a result of it, and a column that its table in a notebook has.
RESULTS: dict[str, tuple[Callable[[rocktok.Log], Any], str]] = {
    "detect": (lambda log: rocktok.detect(log, context="off"), "rock_score"),
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
    "info": (rocktok_info, "superseded_rows"),
}


@pytest.mark.parametrize("command", RESULTS)
def test_every_result_has_json_and_a_table_for_notebooks(command: str) -> None:
    make, column = RESULTS[command]
    result = make(rocktok.open(SAMPLE))
    content = json.loads(result.to_json())
    assert content["schema"] == f"rocktok.{command}/1"
    assert list(content)[1] == "log"
    assert set(content) - set(result.about("log")) == {"log"}
    html = result._repr_html_()
    assert f"<th>{column}</th>" in html
    assert html.count("<li>") == len(result.notes)
    assert "<a>" not in html
