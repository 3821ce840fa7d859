"""What a page opens with, and notes in words that need no manual."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from rocktok.analyses.detect import table
from rocktok.report.page.comparison import _note
from rocktok.report.page.content import page_content
from rocktok.report.page.flags import FLAGS, explained, of_several
from rocktok.report.page.opening import CHIPS, page_opening, plain
from rocktok.report.page.render import spark
from rocktok.report.result import ReportResult
from tests.report.samples import sample_report


@pytest.fixture(scope="module")
def sample() -> ReportResult:
    return sample_report()


def test_the_verdict_is_one_sentence(sample: ReportResult) -> None:
    opening = page_opening(sample)
    assert opening["verdict"] == table.opening(sample.detect)[0]
    assert len(re.findall(r"\.(?: |$)", opening["verdict"])) == 1
    tested = sample.detect.totals["tested"]
    assert tested is not None
    types = len(sample.types["token_id"])
    assert f"Not tested: {types - tested} of {types} token types" in opening["sure"]
    low = sum("low_power" in row["flags"] for row in sample.detect.rocks)
    assert f"Of the {len(sample.rocks)}, {low} rest on few hard" in opening["sure"]
    assert "_" not in opening["sure"] and "--" not in opening["sure"]


def test_chips_are_the_first_rocks(sample: ReportResult) -> None:
    chips = page_opening(sample)["chips"]
    assert [chip["token_id"] for chip in chips] == list(sample.rocks[:CHIPS])
    for chip, row in zip(chips, sample.detect.rocks, strict=False):
        assert (chip["loss_share"], chip["instead"]) == (row["loss_share"], [])
        ends = [chip["curve"][0]["loss"], chip["curve"][-1]["loss"]]
        assert ends == [pytest.approx(row["mean_loss_pre"]), pytest.approx(row["mean_loss"])]
    # Without text, no step but both ends is read.
    alone = page_opening(replace(sample, curves={}))["chips"][0]
    assert [one["step"] for one in alone["curve"]] == [8, 500]


def test_what_the_teacher_wanted_is_on_the_chip(sample: ReportResult) -> None:
    first = sample.detect.rocks[0]
    others = [{"token_id": k, "token": f" {k}", "teacher": 0.5 / (k + 1), "student": 0.1}
              for k in range(4)]  # fmt: skip
    told: Any = {**first, "instead": others, "instead_occurrences": 9, "teacher_on_token": 0.1}
    tokens = tuple(told if row is first else row for row in sample.detect.tokens)
    found = replace(sample, detect=replace(sample.detect, tokens=tokens))
    assert page_opening(found)["chips"][0]["instead"] == others[:2]
    rock = page_content(found, [], [])["rocks"]
    assert rock is not None
    assert (rock[0]["instead"], rock[0]["teacher_on_token"]) == (others, 0.1)


def test_no_note_of_the_page_names_an_option(sample: ReportResult) -> None:
    assert any("--" in note or "Recorder(" in note for note in sample.notes)
    for note in page_content(sample, [], [])["notes"] or []:
        assert not re.search(r"--[a-z]|Recorder\(|`|_", note), note
        assert note[0].isupper() or not note[0].isalpha()
        assert note.endswith(".")


@pytest.mark.parametrize(
    "note, said",
    [
        ("losses fell; compare with --tau-post same", "Losses fell."),
        ("attribute: 3 rocks have none", "Gradients: 3 rocks have none."),
        ("stagnation: control: no rock", "Loss over training: control: no rock."),
        ("give --top-k", "Give --top-k."),
        ("a: b", "A: b."),
        ("tau_post is 0.39 of tau_pre", "The later threshold is 0.39 of the earlier threshold."),
    ],
)
def test_a_note_in_words(note: str, said: str) -> None:
    assert plain(note) == said


def test_every_flag_is_explained() -> None:
    assert set(FLAGS) == set(table._MARKS)
    assert all(text.endswith(".") and "_" not in text for text in FLAGS.values())
    assert explained(["sampled", "new_one"]) == [FLAGS["sampled"], "new_one"]
    assert of_several([["low_power"], ["low_power", "stretch"], []]) == (
        "Of the 3, 2 rest on few hard occurrences or prompts, and 1 stands in a stretch of text "
        "that is as hard."
    )
    assert of_several([["position_bound"]]) == "Of the 1, 1 cannot be told apart from its place."
    assert of_several([["not_in_rollouts"]]) == "Of the 1, 1 is no longer written by the student."
    assert of_several([["sampled"], []]) == ""


def test_a_spark_goes_by_step_and_from_zero() -> None:
    curve: list[Any] = [{"step": s, "loss": x} for s, x in ((0, 4.0), (10, 2.0), (40, 1.0))]
    found = spark(curve, width=100, height=28)
    assert found is not None
    assert found["points"] == "0.0,0.0 25.0,14.0 100.0,21.0"
    assert (found["steps"], found["losses"]) == ((0, 40), (4.0, 1.0))
    assert spark(curve[:1]) is None
    assert spark([{**one, "loss": 0.0} for one in curve]) is not None


@pytest.mark.parametrize(
    "note, said",
    [
        ("runs/a: no rocks", "a: No rocks."),
        ("runs/b: stability: K = 5", "b: Samples of prompts: K = 5."),
        ("runs/abc: no rocks", "Runs/abc: no rocks."),
        ("the vocabularies are different files", "The vocabularies are different files."),
    ],
)
def test_a_note_on_a_log_of_several_keeps_its_name(note: str, said: str) -> None:
    compared = SimpleNamespace(log=[{"name": "runs/a"}, {"name": "runs/b"}])
    assert _note(note, cast(Any, compared), ["a", "b"]) == said
