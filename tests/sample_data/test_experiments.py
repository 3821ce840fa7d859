"""The experiments: contrasts of trainings, problems that no model has seen, stages, the page."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

pytest.importorskip("trl")

import rocktok
from rocktok.outcomes import load_outcomes
from tests.paths import ROOT

sys.path.append(str(ROOT / "sample_data"))

import experiment_tables
import experiment_toy
import experiment_training
import experiments
import make
import models
import problems
from experiment_settings import FULL, SMOKE

# -- trainings -------------------------------------------------------------------------------


def test_contrasts_of_trainings_by_hand():
    right = {
        "unweighted": np.array([[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0]], dtype=bool),
        "rocks-0": np.array([[1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]], dtype=bool),
    }
    (row,) = experiment_training.contrast_rows("greedy", "unweighted", right)
    # By seed: 1/4, 2/4, 3/4; with two degrees of freedom p = 1 − t/√(t² + 2).
    assert row["difference"] == 0.5
    t = 0.5 / (0.25 / 3**0.5)
    assert row["p_seeds"] == row["p_holm"] == pytest.approx(1 - t / (t**2 + 2) ** 0.5)
    half = 4.302652729911275 * 0.25 / 3**0.5
    assert (row["seeds_low"], row["seeds_high"]) == pytest.approx((0.5 - half, 0.5 + half))
    # Problems change by 0, 2, 2, 2 in all: of 8 flips of their signs, 2 are as far from 0.
    assert row["p_problems"] == 2 / 8
    assert row["problems_low"] < 0.5 < row["problems_high"]
    mirrored = experiment_training.accuracy_rows("greedy", right)
    assert [one["accuracy"] for one in mirrored] == [4 / 12, 10 / 12]
    assert mirrored[1]["by_seed"] == [0.5, 1.0, 1.0]


def test_one_training_has_no_interval_over_trainings():
    right = {"unweighted": np.eye(1, 5, dtype=bool), "rocks-0": np.ones((1, 5), dtype=bool)}
    (row,) = experiment_training.contrast_rows("greedy", "unweighted", right)
    assert row["difference"] == 0.8
    assert row["seeds_low"] is row["seeds_high"] is row["p_seeds"] is row["p_holm"] is None


def test_trainings_alike_but_for_chance_differ_in_one_of_twenty():
    """Trainings of one accuracy that vary by seed: p over seeds holds, p over problems cannot."""
    random = np.random.default_rng(3)
    worlds, seeds, size = 400, 3, 200
    over_seeds, over_problems, covered = 0, 0, 0
    for _ in range(worlds):
        accuracy_CS = random.normal(0.6, 0.04, (2, seeds))
        right = {
            name: random.random((seeds, size)) < accuracy_S[:, None]
            for name, accuracy_S in zip(("unweighted", "rocks-0"), accuracy_CS, strict=True)
        }
        (row,) = experiment_training.contrast_rows("sampled", "unweighted", right)
        over_seeds += row["p_seeds"] <= 0.05
        over_problems += row["p_problems"] <= 0.05
        covered += row["seeds_low"] <= 0 <= row["seeds_high"]
    # 20 are expected, with a standard deviation of 4.4.
    assert 7 <= over_seeds <= 33 and covered == worlds - over_seeds
    # Why the interval over trainings decides: problems alone call chance a difference.
    assert over_problems > 2 * over_seeds


def test_holm_counts_the_conditions_of_one_table():
    random = np.random.default_rng(0)
    names = [condition.name for condition in experiment_training.CONDITIONS]
    right = {name: random.random((3, 50)) < 0.5 for name in names}
    for reference, count in (("unweighted", 7), ("rocks-0", 6)):
        rows = experiment_training.contrast_rows("greedy", reference, right)
        assert len(rows) == count
        least = min(rows, key=lambda row: row["p_seeds"])
        assert least["p_holm"] == min(1.0, count * least["p_seeds"])
    assert set(names) == set(experiment_tables.CONDITIONS)


def test_step_times_are_compared_seed_by_seed():
    ours, theirs = [[9.0, 1.0, 3.0, 2.0], [9.0, 4.0]], [[5.0, 4.0, 4.0], [5.0, 8.0]]
    assert experiment_training.step_ratio(ours, theirs) == 0.5
    assert experiment_training.step_ratio([[3.0]], [[2.0]]) == 1.5


# -- problems --------------------------------------------------------------------------------


def test_no_model_has_seen_the_problems(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(make, "HELD_OUT", 20)
    monkeypatch.setattr(make, "PROMPTS", 30)
    recipes = {name: replace(recipe, steps=2, batch=4) for name, recipe in models.RECIPES.items()}
    monkeypatch.setattr(models, "RECIPES", recipes)
    # The first draws beyond the held-out ones have been seen in training.
    expected = problems.draw_distinct(5, experiment_toy.MORE_SEED)
    taught = [(one.prompt, "") for one in expected[:2]]
    monkeypatch.setattr(models, "corpora", lambda recipe, avoid: iter([taught]))
    drawn = experiment_toy.draw_problems(24)
    assert drawn[:20] == make.held_out_problems()
    assert drawn[20:23] == expected[2:] and len({one.prompt for one in drawn}) == 24
    assert experiment_toy.draw_problems(7) == make.held_out_problems()[:7]


def test_corpora_are_all_that_a_model_is_trained_on():
    recipe = replace(models.RECIPES["teacher"], steps=3, batch=2)
    avoid = frozenset(prompt for prompt, _ in problems.write_corpus(recipe.habit, 5, 1000))
    (corpus,) = models.corpora(recipe, avoid)
    assert len(corpus) == models.POOL * recipe.batch
    assert corpus == list(problems.write_corpus(recipe.habit, len(corpus), 1000, avoid))
    assert not avoid & {prompt for prompt, _ in corpus}


def test_answers_are_told_by_their_last_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(make, "HELD_OUT", 3)
    experiment_toy.write_problems(3, tmp_path / "problems.jsonl")
    first, *rest = experiment_toy.read_problems(tmp_path / "problems.jsonl")
    assert [line["id"] for line in rest] == ["00001", "00002"]
    answer = make.held_out_problems()[0].answer
    assert first["answer"] == answer
    assert problems.is_answered(f"7 and then $\\boxed{{{answer}}}$", first)
    assert not problems.is_answered(f"{answer} and then {answer + 1}", first)
    assert not problems.is_answered("none", first)
    experiment_toy.write_first(tmp_path / "problems.jsonl", 2, tmp_path / "two.jsonl")
    assert experiment_toy.read_problems(tmp_path / "two.jsonl") == [first, rest[0]]


# -- settings, publishing, the page ----------------------------------------------------------


def test_the_full_run_can_tell_one_point():
    assert FULL.problems >= 6000 >= FULL.replaced and len(FULL.seeds) == 3
    assert FULL.answered <= FULL.problems and FULL.rocks is None


def test_experiments_of_other_settings_are_refused(tmp_path: Path):
    experiments.keep_settings(tmp_path / "x", SMOKE)
    experiments.keep_settings(tmp_path / "x", SMOKE)
    with pytest.raises(click.ClickException, match="holds experiments of other settings"):
        experiments.keep_settings(tmp_path / "x", FULL)


def test_the_page_is_made_from_the_published_summary():
    summary = json.loads((ROOT / "sample_data" / "experiments" / "summary.json").read_text())
    assert (ROOT / "docs" / "experiments.md").read_text() == experiment_tables.page(summary)
    size = sum(path.stat().st_size for path in (ROOT / "sample_data" / "experiments").iterdir())
    assert size <= experiments.LIMIT


def test_the_published_outcomes_give_the_published_numbers():
    folder = ROOT / "sample_data" / "experiments"
    summary = json.loads((folder / "summary.json").read_text())
    for part in ("census", "replacement"):
        found = json.loads(rocktok.pillars(folder / f"{part}.parquet").to_json())
        assert found["global"] == summary[part]["global"]
        assert found["contrasts"] == summary[part]["contrasts"]


def test_only_what_is_done_is_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder, target = tmp_path / "x", tmp_path / "out"
    experiments.keep_settings(folder, SMOKE)
    rows = pa.table({"n": list(range(1000))}).replace_schema_metadata({"rocktok": "{}"})
    for part in ("census", "training"):
        pq.write_table(rows, folder / f"{part}.parquet")
    (folder / "training.json").write_text("{}")
    experiments.publish(folder, target)
    assert sorted(path.name for path in target.iterdir()) == ["summary.json", "training.parquet"]
    assert pq.read_table(target / "training.parquet").equals(rows, check_metadata=True)
    summary = json.loads((target / "summary.json").read_text())
    assert set(summary) == {"settings", "versions", "training"}
    monkeypatch.setattr(experiments, "LIMIT", 100)
    with pytest.raises(click.ClickException, match=r"more than 0\.0001 MB"):
        experiments.publish(folder, target)
    assert (target / "training.parquet").exists()


def test_a_folder_of_other_files_is_not_replaced(tmp_path: Path):
    (tmp_path / "out").mkdir()
    result = CliRunner().invoke(
        experiments.main, ["--work", str(tmp_path), "--smoke", "-o", str(tmp_path / "out")]
    )
    assert result.exit_code == 1 and "holds no summary.json" in result.output
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def test_a_page_of_nothing_has_no_sections():
    text = experiment_tables.page({})
    assert text == experiment_tables.INTRODUCTION and "##" not in text


def test_cells_cannot_break_a_table():
    assert experiment_tables.table(("a",), [("x|y",)]) == "| a |\n| --- |\n| x\\|y |\n"


def test_a_training_that_is_worse_greedily_than_by_draws_is_named():
    training = {
        "seeds": [1, 2],
        "accuracies": [
            {"condition": "unweighted", "decoding": "greedy", "by_seed": [0.7, 0.2]},
            {"condition": "unweighted", "decoding": "sampled", "by_seed": [0.5, 0.5]},
        ],
    }
    _, numbers, odd = experiment_tables._each_training(training)
    assert "| no weights | 70.0% | 20.0% | 50.0% | 50.0% |" in numbers
    assert "no weights, seed 2." in odd and "seed 1" not in odd
    training["seeds"] = [1]
    assert experiment_tables._each_training(training) == []


# -- all of it -------------------------------------------------------------------------------


@pytest.mark.exhaustive
@pytest.mark.long
def test_a_rehearsal_of_all_experiments(tmp_path: Path):
    docs = tmp_path / "page.md"
    command = ["--work", str(tmp_path), "--smoke", "--threads", "1", "--docs", str(docs)]
    result = CliRunner().invoke(experiments.main, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    target = tmp_path / SMOKE.name / "published"
    written = {path.name: path.read_bytes() for path in target.iterdir()}
    assert set(written) == {f"{part}.parquet" for part in experiments.PARTS} | {"summary.json"}
    # No path of this machine is in what is published.
    assert not [name for name, data in written.items() if str(tmp_path).encode() in data]
    assert str(ROOT).encode() not in written["summary.json"]

    summary = json.loads(written["summary.json"])
    for part, count in (("census", SMOKE.problems), ("replacement", SMOKE.replaced),
                        ("language", SMOKE.prompts)):  # fmt: skip
        outcomes = load_outcomes(target / f"{part}.parquet")
        assert len(outcomes.problems) == count
        assert any(arm.group == "rock" for arm in outcomes.arms)
    _check_outcomes(summary["census"], target)
    _check_answers(summary["training"], target)
    assert "accuracy" not in json.dumps(summary["language"])

    text = docs.read_text()
    assert re.findall(r"^## .*", text, re.MULTILINE) == [
        "## Claims and answers", "## Banned tokens", "## Replaced tokens",
        "## Trained without them", "## A language model",
    ]  # fmt: skip
    assert "nan" not in text and "None" not in text

    # Finished stages are kept, and the same is published.
    again = CliRunner().invoke(experiments.main, command, catch_exceptions=False)
    assert "made in" not in again.output
    assert {path.name: path.read_bytes() for path in target.iterdir()} == written


def _check_outcomes(census: dict[str, Any], target: Path) -> None:
    """The arms' effects are those of the published rows."""
    rows = pq.read_table(target / "census.parquet").to_pandas()
    accuracy = rows.groupby("arm")["correct"].mean()
    assert census["arms"]
    for arm in census["arms"]:
        assert arm["delta"] == pytest.approx(accuracy[arm["arm"]] - accuracy["baseline"])


def _check_answers(training: dict[str, Any], target: Path) -> None:
    """Accuracies are those of the published rows; every selection carries the rocks' loss."""
    rows = pq.read_table(target / "training.parquet").to_pandas()
    keys = ["decoding", "condition"]
    accuracy = rows.groupby(keys)["correct"].mean()
    assert len(training["accuracies"]) == 2 * len(experiment_training.CONDITIONS)
    for row in training["accuracies"]:
        assert row["accuracy"] == pytest.approx(accuracy[row["decoding"], row["condition"]])
    shares = {row["condition"]: row["loss_share"] for row in training["conditions"]}
    assert shares["rocks-0"] == shares["rocks-0.5"] > 0.3
    for name in ("frequency-0", "mean-loss-0", "random-0", "tip-0"):
        assert shares["rocks-0"] - 1e-6 <= shares[name] < shares["rocks-0"] + 0.1
    assert all(row["step_ratio"] > 0 for row in training["conditions"])
