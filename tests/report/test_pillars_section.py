"""Outcomes of interventions in a report: a section, a figure, and refusals before any pass."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import rocktok
from rocktok.analyses.pillars.result import PillarsResult
from rocktok.errors import LogError
from rocktok.report.page import figures
from rocktok.report.page.figures.figure import AbsentError
from tests.analyses.pillars.made import Made, world
from tests.paths import SAMPLE
from tests.processes import run_command
from tests.report.samples import sample_files, sample_report


def test_the_page_has_the_answer_the_arms_and_the_forest() -> None:
    (result,) = (one.result for one in sample_report().others if one.analysis.name == "pillars")
    assert isinstance(result, PillarsResult)
    files = sample_files()
    page = files["report.html"].decode()
    assert result.answer()[0].split(";")[0] in page
    assert "figures/pillars.svg" in files
    content = json.loads(files["report.json"])
    assert content["analyses"]["pillars"]["schema"] == "rocktok.pillars/1"
    assert len(content["figures"]["pillars"]["arms"]) == len(result.arms)


def test_the_forest_draws_rocks_first_and_their_intervals() -> None:
    result = rocktok.pillars(world(1).outcomes(), replicates=1000)
    numbers = figures.pillars.numbers(result)
    assert [row["group"] for row in numbers["arms"][:6]] == ["rock"] * 6
    assert "rock" not in [row["group"] for row in numbers["arms"][6:]]
    assert numbers["arms"][0]["category"] == "pillar"
    (axis,) = figures.pillars(result).axes
    assert axis.get_yticklabels()[0].get_text() == "' w0' *"
    (rocks,) = (line for line in axis.lines if line.get_label() == "rocks")
    assert rocks.get_xdata()[0] == pytest.approx(100 * numbers["arms"][0]["delta"])
    silent = Made().add("baseline", [[1], [0]]).add("ban:1", [[1], [0]], fired=False)
    with pytest.raises(AbsentError, match="no arm ever acted"):
        figures.pillars(rocktok.pillars(silent.outcomes(), replicates=1000))


def test_outcomes_of_another_vocabulary_are_refused(tmp_path: Path) -> None:
    made = world(1, problems=8, arms=1)
    made.about["tokenizer"] = "another"
    with pytest.raises(LogError, match="made: its vocabulary differs from the log's"):
        rocktok.report(rocktok.open(SAMPLE), outcomes=[made.outcomes()])
    output = tmp_path / "out"
    words = "report", SAMPLE, "-o", output, "--outcomes"
    code, _, error = run_command(*words, tmp_path / "none.parquet")
    assert (code, error.count("\n")) == (1, 1)
    assert error.startswith(f"rocktok: {tmp_path}/none.parquet: is not there; give what ")
    done = run_command("report", "--compare", SAMPLE, SAMPLE, "-o", output, "--outcomes", "x")
    assert done == (2, "", "rocktok: --outcomes are those of one student; leave out --compare\n")
    assert not output.exists()
