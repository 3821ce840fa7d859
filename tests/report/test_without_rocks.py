"""The page of a log without rocks: the hardest types, which it calls none, and what is left out."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rocktok
from rocktok.log import LogWriter
from rocktok.log.shipped import demo_path
from rocktok.report.hardest import LARGEST, SHOWN
from rocktok.report.page.content import page_content, token_rows
from rocktok.report.page.figures import BY_NAME
from rocktok.report.page.figures.takeaways import takeaway
from rocktok.report.page.files import figure_numbers, missing
from rocktok.report.page.opening import page_opening
from rocktok.report.page.render import render_page
from rocktok.report.page.without_rocks import folded
from rocktok.report.passes import report
from rocktok.report.result import ReportResult
from tests.report.samples import sample_report

#: A type that is hard wherever it stands, and types in all; its neighbours are drawn at random.
HARD, TYPES = 7, 300
TEXTS, TOKENS = 160, 40

RUN = {"vocab_size": TYPES, "loss": {"exactness": "exact"}}


def write(path: Path, *, hard: bool, steps: tuple[int, ...] = (0, 5, 10)) -> Path:
    """Random text of random losses; with `hard`, one type has a large loss at every step."""
    text = np.random.default_rng(1)
    token_N = text.integers(0, TYPES, TEXTS * TOKENS).astype(np.int32)
    token_N[text.random(len(token_N)) < 0.02] = HARD
    sequence_N = np.repeat(np.arange(TEXTS), TOKENS)
    vocab = [(v, f" t{v}", b" t%d" % v) for v in range(TYPES)]
    with LogWriter(path, columns=("teacher_logprob",), run=RUN, vocab=vocab) as writer:
        writer.write(
            {
                "sequence_id": list(range(TEXTS)),
                "step": 0,
                "num_tokens": TOKENS,
                "prompt_id": [f"p{i}" for i in range(TEXTS)],
            },
            table="sequences",
        )
        for step in steps:
            rng = np.random.default_rng([2, step])
            loss_N = rng.exponential(0.4, len(token_N)).astype(np.float32)
            if hard:
                loss_N[token_N == HARD] += 5
            rows = {
                "step": np.full(len(token_N), step, np.int32),
                "sequence_id": sequence_N,
                "position": np.tile(np.arange(TOKENS), TEXTS).astype(np.int32),
            }
            writer.write(
                {**rows, "token_id": token_N, "loss": loss_N, "teacher_logprob": -loss_N},
                table="fixed",
            )
            writer.finish_step(step, "fixed")
            if step in (steps[0], steps[-1]):
                others = np.tile([[3, 5]], (len(token_N), 1)).astype(np.int32)
                shares = np.tile([[0.5, 0.25]], (len(token_N), 1)).astype(np.float16)
                named = {f"{m}_{k}": v for m in ("student", "teacher")
                         for k, v in (("ids", others), ("probs", shares))}  # fmt: skip
                writer.write({**rows, **named}, table="alternatives")
                writer.finish_step(step, "alternatives")
    return path


@pytest.fixture(scope="module")
def hard(tmp_path_factory: pytest.TempPathFactory) -> ReportResult:
    log = write(tmp_path_factory.mktemp("hard") / "log", hard=True)
    return report(log, replicates=100, lifts=False, sequences=4)


def test_the_hardest_types_are_those_with_the_most_loss(hard: ReportResult) -> None:
    assert hard.detect.rocks == ()
    assert [row["token_id"] for row in hard.hardest if row["hard"]] == [HARD]
    sums = dict(_sums(hard))
    by_loss = sorted(sums, key=lambda v: (-sums[v], v))
    shown = [row["token_id"] for row in hard.hardest]
    assert shown == [HARD, *(v for v in by_loss if v != HARD)][:SHOWN]
    first = hard.hardest[0]
    assert first["loss_share"] == pytest.approx(sums[HARD] / sum(sums.values()))
    assert first["hardness"] is not None and first["hardness"] > 1.5
    assert hard.detect.totals["hard"] == 1
    assert all(row["hardness"] is None for row in hard.hardest[1:])
    # What the teacher held likely is a mean over persistent occurrences, which all had the same.
    assert [(one["token_id"], one["teacher"]) for one in first["instead"]] == [(3, 0.5), (5, 0.25)]
    assert [one["step"] for one in hard.curves[HARD]] == [0, 5, 10]


def test_chips_say_that_they_are_no_rocks(hard: ReportResult) -> None:
    opening = page_opening(hard)
    assert opening["chips"] == []
    assert opening["verdict"].startswith("No rock tokens: none of ")
    assert opening["sure"].startswith("FDR 5%: ")
    beyond, largest = opening["others"]
    assert [chip["token_id"] for chip in beyond["chips"]] == [HARD]
    assert len(largest["chips"]) == SHOWN - 1 >= LARGEST
    for group in (beyond, largest):
        assert group["heading"].startswith("Not rocks: ")
        assert all(chip["label"].endswith("not a rock") for chip in group["chips"])
    page = render_page(page_content(hard, [], []))
    assert page.count('class="chip no-rock"') == SHOWN
    assert "#rock=" not in page.split("<script")[0]


def test_the_page_names_no_rock_anywhere(hard: ReportResult) -> None:
    numbers: dict[str, Any] = figure_numbers(hard)
    assert not {"ccr", "clusters", "density", "sensitivity", "lenses"} & set(numbers)
    content = page_content(hard, [], missing(hard))
    assert content["title"] == f"No rock tokens in {hard.log['path']}"
    assert "None of them is a rock" in render_page({**content, "folded": "x"})
    assert content["folded"] == (
        "There are no rocks, so figures of their contexts, kinds, density, share of the gradient "
        "and place in other papers' lenses are left out; none of 15 settings of contexts names "
        "any."
    )
    for note in content["notes"] or []:
        assert not re.search(r"no rocks (for|to)|0 rocks", note)
    said = takeaway("early_late", numbers["early_late"])
    assert said is not None and re.fullmatch(
        r"\d+ of \d+ frequent types have a lower mean loss at step 10 than at 0", said
    )
    assert str(takeaway("position", numbers["position"])).startswith("Text is hardest between ")
    rows = content["table"]["rows"] if content["table"] else ()
    assert [row["token_id"] for row in rows[:SHOWN]] == [r["token_id"] for r in hard.hardest]


def test_noise_has_no_type_that_is_hard_beyond_chance(tmp_path: Path) -> None:
    found = report(write(tmp_path / "log", hard=False), replicates=100, lifts=False, sequences=0)
    assert found.detect.rocks == ()
    assert [row["hard"] for row in found.hardest] == [False] * SHOWN
    (group,) = page_opening(found)["others"]
    assert "Rock Scores" in group["heading"]


def test_one_step_has_types_with_the_most_loss_alone(tmp_path: Path) -> None:
    log = write(tmp_path / "log", hard=True, steps=(0,))
    found = report(log, replicates=100, lifts=False, sequences=0)
    assert found.hardest[0]["token_id"] == HARD
    assert not any(row["hard"] or row["instead"] for row in found.hardest)
    assert page_content(found, [], [])["title"] == f"Token losses in {log}"


def test_with_rocks_all_is_as_ever() -> None:
    sample = sample_report()
    assert sample.hardest == ()
    assert page_opening(sample)["others"] == []
    assert folded(sample, []) is None


def test_the_demo_is_named() -> None:
    sample = sample_report()
    demo = replace(sample, log={**sample.log, "path": str(demo_path())})
    assert page_content(demo, [], [])["title"] == "Rock tokens in the log that ships with rocktok"
    assert rocktok.demo().name == str(demo_path())


def test_the_table_has_the_rows_of_the_chips_in_order_of_loss(hard: ReportResult) -> None:
    few = replace(hard, params={**hard.params, "rows": 9}, hardest=hard.hardest[:3])
    rows = token_rows(few)
    assert len(rows) == 9
    by_loss = [row["loss_share"] for row in rows]
    assert by_loss == sorted(by_loss, reverse=True)
    # One that carries little takes the place of the last.
    last = min(range(TYPES), key=lambda v: (dict(_sums(hard)).get(v, np.inf), v))
    rare = replace(few, hardest=({**hard.hardest[0], "token_id": last},))
    ids = [row["token_id"] for row in token_rows(rare)]
    assert ids[:8] == [row["token_id"] for row in rows[:8]] and ids[8] == last
    table = page_content(hard, [], [])["table"]
    assert table is not None
    assert "inclusion" not in {column["key"] for column in table["columns"]}


def _sums(result: ReportResult) -> list[tuple[int, float]]:
    types = result.types
    columns = (types["token_id"], types["frequency"], types["loss_post"])
    return [(v, n * loss) for v, n, loss in zip(*columns, strict=True)]


def test_captions_over_several_logs_go_by_one_with_rocks(hard: ReportResult) -> None:
    none, some = (figure_numbers(one) for one in (hard, sample_report()))
    figure = BY_NAME["position"]
    both = {"none": none["position"], "some": some["position"]}
    assert figure.common(both) is both["some"]
    assert figure.common({"none": both["none"]}) is both["none"]
    assert "No type is a rock" in figure.caption(both["none"]).text
    lines = {"none": none["stagnation"], "some": some["stagnation"]}
    figure = BY_NAME["stagnation"]
    assert "rocks at the first two steps" in figure.caption(figure.common(lines)).text
    assert "rocks at the first" not in figure.caption(none["stagnation"]).text
