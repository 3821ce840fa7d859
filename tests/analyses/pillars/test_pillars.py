"""`pillars`: numbers by hand, what groups say, and that noise says nothing."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.stats import binomtest, fisher_exact, spearmanr, t

import rocktok
from rocktok.analyses.pillars.after import compensation_rows
from rocktok.analyses.pillars.arms import Benchmark, arm_rows, pair_rows
from rocktok.analyses.pillars.paired import Difference, paired_difference
from rocktok.analyses.pillars.result import CATEGORIES, PillarsParams
from rocktok.analyses.pillars.table import encode, opening, render
from rocktok.errors import LogError, UsageError
from rocktok.outcomes import Outcomes
from rocktok.tables.terminal import View
from tests.analyses.pillars.made import Made, knockouts, world
from tests.analyses.pillars.null_worlds import World, rates


def column(*ones: int, of: int) -> np.ndarray:
    """(P, 1) answers: true at some places."""
    answers = np.zeros((of, 1), bool)
    answers[list(ones)] = True
    return answers


def by_hand(problems: int = 400) -> Outcomes:
    """A pillar, a stumbling block, an arm without any change, one that is undecided."""
    half = range(problems // 2)
    made = Made().add("baseline", column(*half, of=problems))
    made.add("ban:1", column(*half[40:], of=problems))
    made.add("ban:2", column(*half, *range(300, 360), of=problems))
    made.add("ban:3", column(*half, of=problems))
    made.add("ban:4", column(*half[6:], *range(300, 304), of=problems))
    made.add("ban:5", column(*half[20:], of=problems), group="control", control_of=1)
    made.add("ban:6", column(*half, of=problems), fired=False)
    return made.outcomes()


def rows_of(result: rocktok.analyses.pillars.result.PillarsResult) -> dict[str, Any]:
    return {row["arm"]: row for row in result.arms}


@pytest.fixture(scope="module")
def hand() -> Any:
    return rocktok.pillars(by_hand())


def test_effects_tests_and_categories_by_hand(hand: Any) -> None:
    rows = rows_of(hand)
    assert list(rows) == ["ban:1", "ban:2", "ban:3", "ban:4", "ban:5"]
    assert [row["delta"] for row in rows.values()] == [-0.1, 0.15, 0.0, -0.005, -0.05]
    assert [(row["gained"], row["lost"]) for row in rows.values()] == [
        (0, 40), (60, 0), (0, 0), (4, 6), (0, 20),
    ]  # fmt: skip
    p = [binomtest(0, 40).pvalue, binomtest(60, 60).pvalue, 1.0, binomtest(4, 10).pvalue]
    assert [rows[f"ban:{v}"]["p_value"] for v in range(1, 5)] == pytest.approx(p)
    # Rocks are one family of four, the control is one of its own.
    assert rows["ban:1"]["p_holm"] == pytest.approx(3 * p[0])
    assert rows["ban:1"]["p_bonferroni"] == pytest.approx(4 * p[0])
    assert rows["ban:1"]["q_bh"] == pytest.approx(2 * p[0])
    assert rows["ban:5"]["p_holm"] == rows["ban:5"]["p_value"]
    assert [row["category"] for row in rows.values()] == [
        "pillar", "stumbling", "equivalent", "inconclusive", "pillar",
    ]  # fmt: skip
    for row in rows.values():
        assert row["ci_low"] <= row["ci90_low"] <= row["delta"] <= row["ci90_high"]
        assert row["ci90_high"] <= row["ci_high"]
        assert row["minimum_effect"] > 0


def test_groups_and_controls_by_hand(hand: Any) -> None:
    rock, control = hand.overall
    assert (rock["arms"], rock["never_fired"], rock["negative"], rock["zero"]) == (4, 1, 2, 1)
    assert [rock[name] for name in CATEGORIES] == [1, 1, 1, 1]
    assert rock["mean_delta"] == pytest.approx((-0.1 + 0.15 - 0.005) / 4)
    assert control["arms"] == control["pillar"] == 1
    # Of the five runs, three are at or above the baseline, and three at or below.
    assert rock["p_asymmetry"] == 1.0
    assert (rock["baselines"], rock["p_placebo"]) == (1, None)
    (pair,) = hand.controls
    assert (pair["token_id"], pair["control_token_id"]) == (1, 5)
    assert pair["difference"] == pytest.approx(-0.05)
    assert pair["p_value"] == pytest.approx(binomtest(0, 20).pvalue)
    (contrast,) = hand.contrasts
    assert contrast["pairs"] == 1
    assert contrast["difference"] == pair["difference"]
    assert contrast["p_value"] == pair["p_value"]


def test_the_first_line_answers(hand: Any) -> None:
    answer, sure = opening(hand)
    (power,) = (row for row in hand.power if row["group"] == "rock")
    assert answer == (
        "2 of 4 banned rocks change the accuracy (1 pillar, 1 stumbling block, 1 equivalent, 1 "
        "undecided); the smallest effect that could be told is "
        f"±{100 * power['minimum_effect']:.1f}%."
    )
    assert sure == (
        "At 5% with Holm's correction over 4 arms (400 problems, accuracy 50.0%); 2 of 4 arms lose "
        "accuracy and 1 gain, which 1 shared baseline explains with p = 1.00."
    )
    assert "1 arm that never acted left out" in render(hand)


def test_options_decide_the_category() -> None:
    outcomes = by_hand()
    wide = rows_of(rocktok.pillars(outcomes, margin=0.12))
    assert wide["ban:1"]["category"] == "inconclusive"
    assert wide["ban:4"]["category"] == "equivalent"
    assert wide["ban:2"]["category"] == "stumbling"
    strict = rows_of(rocktok.pillars(outcomes, level=1e-13))
    assert {row["category"] for row in strict.values()} <= {"inconclusive", "stumbling"}
    theirs = rocktok.pillars(outcomes, p_value="percentile")
    rows = rows_of(theirs)
    assert rows["ban:3"]["p_value"] == 2.0
    assert rows["ban:3"]["p_holm"] == 1.0
    assert any("may exceed 1" in note for note in theirs.notes)


def test_draws_of_a_problem_count_together(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    base, arm = generator.random((2, 50, 4)) < 0.6
    result = rocktok.pillars(Made().add("baseline", base).add("ban:1", arm).outcomes())
    (row,) = result.arms
    change = arm.sum(axis=1) - base.sum(axis=1).astype(int)
    assert row["delta"] == pytest.approx(arm.mean() - base.mean())
    assert (row["gained"], row["lost"]) == ((change > 0).sum(), (change < 0).sum())
    assert result.sources[0]["draws"] == 4


def test_the_same_for_any_order_of_arms_and_problems() -> None:
    made = world(3, problems=30, arms=2)
    rows = len(made.columns["arm"])
    turned = Made({k: [v[i] for i in reversed(range(rows))] for k, v in made.columns.items()},
                  made.about)  # fmt: skip
    one, two = (rocktok.pillars(m.outcomes(), replicates=1000) for m in (made, turned))
    assert rows_of(one) == rows_of(two)
    # Sums of losses are over problems in another order.
    assert one.overall == two.overall
    assert {str(r) for r in one.controls} == {str(r) for r in two.controls}
    assert one.to_json() == rocktok.pillars(made.outcomes(), replicates=1000).to_json()
    other = rocktok.pillars(made.outcomes(), replicates=1000, seed=1)
    assert [row["ci_low"] for row in other.arms] != [row["ci_low"] for row in one.arms]


def test_places_lengths_and_what_follows_by_hand() -> None:
    problems = 90
    first = np.tile([[0], [5], [11]], (30, 1))  # of 12 tokens: early, middle, late
    base = np.ones((problems, 1), bool)
    arm = np.tile([[0], [1], [1]], (30, 1))
    after = {"loss_after": np.full((problems, 1), 0.5), "edit_after": np.full((problems, 1), 0.25),
             "baseline_loss_after": np.tile([[0.1], [0.2], [0.3]], (30, 1))}  # fmt: skip
    made = Made().add("baseline", base).add("ban:1", arm, first_position=first, **after)
    made.add("ban:2", base, group="control", control_of=1, fired=first > 0, **after)
    result = rocktok.pillars(made.outcomes())
    at = {(row["group"], row["cohort"]): row for row in result.cohorts}
    assert [at["rock", name]["delta"] for name in ("early", "middle", "late")] == [-1, 0, 0]
    assert at["rock", "early"]["rows"] == 30
    # All texts are as long: one cohort, and its fired rows.
    assert at["control", "short"]["rows"] == 60
    assert ("control", "long") not in at
    rock, control = result.compensation
    assert rock["loss_change"] == pytest.approx(0.3)
    assert rock["edit_after"] == pytest.approx(0.25)
    assert control["baseline_loss_after"] == pytest.approx(0.25)
    assert rock["loss_change_low"] < 0.3 < rock["loss_change_high"]
    (contrast,) = result.compensation_contrasts
    assert contrast["loss_change"] == pytest.approx(0.05)
    # One pair tells nothing of other tokens.
    assert (contrast["pairs"], contrast["loss_change_low"]) == (1, None)
    thirds = {(r["group"], r["cohort"]): r for r in result.compensation_cohorts}
    assert [thirds["rock", c]["loss_change"] for c in ("early", "middle", "late")] == (
        pytest.approx([0.4, 0.3, 0.2])
    )
    early = thirds["control", "early"]  # where all of its places are
    assert (early["rows"], early["pairs"]) == (60, 1)
    assert early["loss_difference"] == pytest.approx(0.15)
    assert thirds["rock", "late"]["rows"] == 30
    assert thirds["rock", "late"]["loss_difference"] is None
    assert thirds["control", "short"]["loss_difference"] == pytest.approx(0.05)


def test_texts_that_were_cut_are_counted() -> None:
    base = np.ones((40, 1), bool)
    made = Made().add("baseline", base, truncated=np.arange(40)[:, None] < 10)
    made.add("ban:1", base, truncated=np.arange(40)[:, None] < 20)
    result = rocktok.pillars(made.outcomes(), replicates=1000)
    assert (result.sources[0]["truncated"], result.arms[0]["truncated"]) == (0.25, 0.5)
    assert any(
        note.startswith("toy: 25.0% of the baseline's texts were cut") for note in result.notes
    )


def test_differences_of_pairs_by_hand() -> None:
    """Student's t over pairs; several controls of a rock are one; what has no partner is out."""
    rocks = {1: 0.5, 2: 0.7, 3: 0.2, 4: 9.0}
    controls = [(1, 0.4), (2, 0.3), (2, 0.5), (3, 0.3), (7, 5.0), (None, 5.0)]
    found = paired_difference(rocks, controls, 0.05)
    difference = np.array([0.1, 0.3, -0.1])
    low, high = t(2, difference.mean(), difference.std(ddof=1) / 3**0.5).interval(0.95)
    assert found.pairs == 3
    assert (found.value, found.low, found.high) == pytest.approx((difference.mean(), low, high))
    assert paired_difference(rocks, controls, 0.05, given=False).low is None
    assert paired_difference(rocks, controls[:1], 0.05).value == pytest.approx(0.1)
    assert paired_difference(rocks, controls[:1], 0.05).low is None
    assert paired_difference(rocks, [], 0.05) == Difference(0, None, None, None)


def test_thirds_of_compensation_against_a_plain_loop() -> None:
    made = world(11, problems=60, arms=4)
    outcomes = made.outcomes()
    result = rocktok.pillars(outcomes, replicates=1000)
    columns, length = outcomes.columns, outcomes.columns["num_tokens"][0]
    names = ("early", "middle", "late")
    rocks: dict[str, dict[int, list[float]]] = {}
    for row in result.compensation_cohorts:
        if row["kind"] != "position":
            continue
        values: dict[int, list[float]] = {}
        for a, arm in enumerate(outcomes.arms):
            if arm.group != row["group"]:
                continue
            for p, d in np.ndindex(*length.shape):
                first = int(columns["first_position"][a, p, d])
                if first < 0 or names[min(2, 3 * first // int(length[p, d]))] != row["cohort"]:
                    continue
                change = float(columns["loss_after"][a, p, d])
                change -= float(columns["baseline_loss_after"][a, p, d])
                values.setdefault(arm.token_id, []).append(change)
        whole = [value for own in values.values() for value in own]
        assert row["rows"] == len(whole)
        assert row["loss_change"] == pytest.approx(np.mean(whole))
        if row["group"] == "rock":
            rocks[row["cohort"]] = values
        if row["group"] == "control":
            difference = [
                np.mean(rocks[row["cohort"]][v - 4]) - np.mean(own) for v, own in values.items()
            ]
            assert row["pairs"] == 4
            assert row["loss_difference"] == pytest.approx(np.mean(difference))
        if row["group"] == "placebo":  # which are no controls of any rock here
            assert (row["pairs"], row["loss_difference"]) == (0, None)


def test_accuracies_of_tokens_that_differ_are_no_finding() -> None:
    """Each ban has an effect of its own, on rocks and controls alike: over pairs that is noise."""
    params, by_pairs, by_problems = PillarsParams(replicates=1000), [], []
    for seed in range(60):
        generator = np.random.default_rng([78, seed])
        made = Made().add("baseline", generator.random((150, 1)) < 0.7)
        for token in range(12):
            made.add(
                f"ban:{token}",
                generator.random((150, 1)) < 0.7 + generator.normal(0, 0.1),
                group="rock" if token < 6 else "control",
                control_of=None if token < 6 else token - 6,
            )
        benchmark = Benchmark.of("toy", made.outcomes(), params)
        rows = arm_rows(benchmark)
        pairs, (contrast,) = pair_rows(benchmark, rows)
        differences = [pair["difference"] for pair in pairs]
        low, high = t(5, np.mean(differences), np.std(differences, ddof=1) / 6**0.5).interval(0.95)
        assert (contrast["pairs_low"], contrast["pairs_high"]) == pytest.approx((low, high))
        by_pairs.append(low > 0 or high < 0)
        by_problems.append(contrast["p_value"] <= 0.05)
    assert np.mean(by_pairs) <= 0.12
    assert np.mean(by_problems) > 0.2


def test_tokens_that_differ_are_no_finding() -> None:
    """Rocks and controls drawn from the same kinds of tokens, each with an effect of its own.

    With problems as the unit some 60% of the intervals would leave 0 out.
    """
    outside = []
    for seed in range(60):
        generator = np.random.default_rng([77, seed])
        made = Made().add("baseline", np.ones((40, 1), bool))
        own = generator.normal(0, 0.2, 16)
        for token in range(16):
            made.add(
                f"replace:{token}", np.ones((40, 1), bool),
                group="rock" if token < 8 else "control",
                control_of=None if token < 8 else token - 8,
                loss_after=np.maximum(0, 1 + own[token] + generator.normal(0, 0.3, (40, 1))),
                baseline_loss_after=np.full((40, 1), 1.0),
                edit_after=np.clip(0.5 + own[token] / 4 + generator.normal(0, 0.1, (40, 1)), 0, 1),
            )  # fmt: skip
        _, minus = compensation_rows(
            Benchmark.of("toy", made.outcomes(), PillarsParams(replicates=1000)), 0.05
        )
        for name in ("loss_change", "edit_after"):
            low, high = minus[0][f"{name}_low"], minus[0][f"{name}_high"]  # type: ignore[literal-required]
            outside.append(low > 0 or high < 0)
    assert np.mean(outside) <= 0.12  # of 120 intervals at 5%, half of them dependent


def test_arms_that_share_texts_are_compared_with_their_baseline_alone() -> None:
    generator = np.random.default_rng(1)
    made = Made()
    base = generator.random((80, 1)) < 0.5
    made.add("baseline", base)
    made.add("baseline-2", generator.random((80, 1)) < 0.5)
    for token in range(8):
        fired = generator.random((80, 1)) < 0.5
        made.add(
            f"ban:{token}", np.where(fired, generator.random((80, 1)) < 0.5, base), fired=fired
        )
    shared = rocktok.pillars(made.outcomes(), replicates=1000)
    assert shared.sources[0]["shared_draws"]
    assert shared.overall[0]["baselines"] == 1
    assert any("that one alone" in note for note in shared.notes)
    made.columns["fired"] = [arm.startswith("ban") for arm in made.columns["arm"]]
    own = rocktok.pillars(made.outcomes(), replicates=1000)
    assert own.overall[0]["baselines"] == 2
    greedy = Made().add("baseline", base).add("baseline-2", base).add("ban:1", base)
    result = rocktok.pillars(greedy.outcomes(), replicates=1000)
    assert result.overall[0]["baselines"] == 1
    assert any("baselines are identical" in note for note in result.notes)


def test_benchmarks_agree_beyond_chance_or_not(tmp_path: Path) -> None:
    generator = np.random.default_rng(2)
    down = [int(size) for size in generator.integers(1, 30, 12)]
    folder = knockouts(tmp_path / "k", {
        name: {-1: [1] * 50 + [0] * 50, **{
            v: [0] * n + [1] * (50 - n) + [0] * 50 if v % 3 else [1] * (50 + n) + [0] * (50 - n)
            for v, n in enumerate(down)}}
        for name in ("math500", "ifeval")
    })  # fmt: skip
    result = rocktok.pillars(folder)
    assert [row["benchmark"] for row in result.sources] == ["math500", "ifeval"]
    (row,) = result.agreement
    assert (row["arms"], row["signed"], row["same_sign"]) == (12, 12, 1.0)
    assert row["spearman"] == pytest.approx(1)
    assert row["same_sign_chance"] == pytest.approx((1 / 3) ** 2 + (2 / 3) ** 2)
    assert row["p_sign"] == pytest.approx(fisher_exact([[8, 0], [0, 4]])[1])
    assert result.arms[0]["token"] == " t0"
    assert not result.cohorts
    assert any("does not say whether a token was ever generated" in n for n in result.notes)
    twice = rocktok.pillars(by_hand(), by_hand())
    assert [row["benchmark"] for row in twice.sources] == ["toy (1)", "toy (2)"]


@pytest.mark.parametrize("form", ["json", "csv"])
def test_predictors_are_ranked_against_effects(form: str, tmp_path: Path) -> None:
    made = Made().add("baseline", column(*range(50), of=60))
    for token in range(12):
        made.add(f"ban:{token}", column(*range(token, 50), of=60))
    rows = [{"token_id": v, "token": str(v), "mean_loss": (v * 7) % 12 + 0.5,
             "twice": None if v == 3 else 2 * v, "constant": 1} for v in range(14)]  # fmt: skip
    path = tmp_path / f"detect.{form}"
    if form == "json":
        path.write_text(json.dumps({"schema": "rocktok.detect/4", "tokens": rows}))
    else:
        lines = [",".join("" if v is None else str(v) for v in row.values()) for row in rows]
        path.write_text("\n".join([",".join(rows[0]), *lines]))
    result = rocktok.pillars(made.outcomes(), predictors=[path])
    found = {row["predictor"]: row for row in result.predictors}
    assert list(found) == ["mean_loss", "twice", "constant"]
    assert found["twice"]["spearman"] == pytest.approx(-1)
    assert (found["twice"]["arms"], found["constant"]["spearman"]) == (11, None)
    expected = spearmanr([-v for v in range(12)], [r["mean_loss"] for r in rows[:12]])
    assert found["mean_loss"]["spearman"] == pytest.approx(expected.statistic)
    assert found["mean_loss"]["p_value"] == pytest.approx(expected.pvalue)
    low, high = found["mean_loss"]["spearman_low"], found["mean_loss"]["spearman_high"]
    assert low < expected.statistic < high


def test_every_output_holds_the_arms(hand: Any) -> None:
    content = json.loads(hand.to_json())
    assert content["schema"] == "rocktok.pillars/1"
    assert [row["group"] for row in content["global"]] == ["rock", "control"]
    assert len(hand.table) == len(content["arms"]) == 5
    lines = encode(hand, "csv").decode().splitlines()
    assert len(lines) == 6
    table = pq.read_table(io.BytesIO(encode(hand, "parquet")))
    assert table.column("category").to_pylist()[0] == "pillar"
    assert "rocktok-card" in hand._repr_html_()
    assert repr(hand) == render(hand).rstrip("\n")


def test_thirds_are_columns_of_a_table(hand: Any) -> None:
    shown = render(hand)
    assert "by where in the text the arm first acted" in shown
    rock = next(line for line in shown.splitlines() if line.startswith("rock     +1.1"))
    assert rock.split() == ["rock", "+1.1", "(−0.3,", "+2.5)", "–", "–"]
    assert "by the length of the text" not in shown
    assert "by the length of the text" in render(hand, View(everything=True))


def test_no_arm_that_acted_is_an_answer() -> None:
    made = Made().add("baseline", column(1, of=9)).add("ban:1", column(1, of=9), fired=False)
    result = rocktok.pillars(made.outcomes())
    assert opening(result)[0] == "No arm ever acted, so no effect can be told."
    assert result.arms == ()
    assert "1 arm never acted" in result.notes[0]
    render(result)
    result.to_json()


@pytest.mark.parametrize(("right", "word"), [((), "wrong"), (range(9), "right")])
def test_where_all_answers_are_alike_the_accuracy_is_no_answer(
    right: Sequence[int], word: str
) -> None:
    made = Made().add("baseline", column(*right, of=9)).add("ban:1", column(*right, of=9))
    first, second = opening(rocktok.pillars(made.outcomes()))
    assert first == (
        f"Every answer is {word}, with and without interventions, so the accuracy says nothing of "
        "them."
    )
    assert "p =" not in second
    changed = made.add("ban:2", column(3, of=9) ^ column(*right, of=9))
    assert opening(rocktok.pillars(changed.outcomes()))[0].startswith("0 of 2 banned rocks change")


@pytest.mark.parametrize("name, value", [
    ("margin", 0), ("level", 0.5), ("replicates", 999), ("correction", "sidak"), ("p_value", "t"),
])  # fmt: skip
def test_options_out_of_range(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"^{name} is "):
        rocktok.pillars(by_hand(), **{name: value})


def test_one_problem_is_too_few() -> None:
    made = Made().add("baseline", [[1, 0]]).add("ban:1", [[1, 1]])
    with pytest.raises(LogError, match=r"^made: has 1 problem; effects are "):
        rocktok.pillars(made.outcomes())
    with pytest.raises(UsageError, match="give at least one file of outcomes"):
        rocktok.pillars()


#: Rates of 5% in 60 worlds lie below these in all but one of a thousand draws.
MOST_OF_60 = 9 / 60


@pytest.mark.parametrize("world_", [
    World(0.7, 0.2, 100, arms=12), World(0.9, 0.1, 60, 2, arms=12),
    World(0.7, 0.2, 100, arms=12, shared=0.5),
], ids=str)  # fmt: skip
def test_noise_is_no_finding(world_: World) -> None:
    found = rates(world_, 60, 0, intervals=2)
    assert found.named <= MOST_OF_60
    assert found.rejected <= 0.06
    assert found.asymmetric[0] <= MOST_OF_60
    # Several baselines hold only for arms that are runs of their own.
    assert world_.shared or found.asymmetric[1] <= MOST_OF_60
    assert found.covered >= 0.89
    assert found.equivalent == 0


def test_planted_effects_are_found() -> None:
    found = rates(World(0.7, 0.2, 500, arms=6, effect=-0.1), 12, 0, intervals=2)
    assert found.arms_named > 0.8
    assert found.covered >= 0.8
    one = replace(World(0.7, 0.2, 300, arms=20, effect=-0.06), baselines=5)
    assert rates(one, 12, 0, intervals=1).asymmetric[1] > 0.8
