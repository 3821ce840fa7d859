"""Linearised intervals: by a brute-force twin, against every prompt a cluster, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t as student

import rocktok
from rocktok.analyses.stagnation.every_type import GROUPS, GroupSums, groups_of, mean_losses
from rocktok.engine.passes import Engine
from rocktok.hashing import halves, hash_rows
from rocktok.stats.intervals import MIN_EFFECTIVE
from tests.analyses.attribute.test_attribute import prompt_hashes
from tests.analyses.stagnation.test_stagnation import course, run, stagnation, token, write
from tests.paths import SAMPLE
from tests.stats.interval_twin import same


def twin(first: pd.DataFrame, last: pd.DataFrame, by: str) -> tuple[pd.Series, pd.Series]:
    """What each cluster (`by`) adds to the ratio of a type's mean losses, and to the difference.

    In plain pandas, from the rows of one type at two steps.
    """
    change = last["loss"].mean() / first["loss"].mean()
    log_U, delta_U = pd.Series(dtype=float), pd.Series(dtype=float)
    for sign, rows in ((1, last), (-1, first)):
        residual = (rows["loss"] - rows["loss"].mean()).groupby(rows[by]).sum()
        log_U = log_U.add(sign * residual / rows["loss"].sum(), fill_value=0)
        delta_U = delta_U.add(sign * residual / len(rows), fill_value=0)
    return change * log_U, delta_U


def twin_prompts(rows: pd.DataFrame, largest: float) -> float:
    """Kish's number from sums by group of prompts: what groups share by chance is taken off."""
    least = np.inf
    for part, most in ((rows["loss"], largest), (rows["loss"] * 0 + 1, 1.0)):
        by_group = part.groupby(rows["group"]).sum().reindex(range(GROUPS), fill_value=0.0)
        squares = by_group.var(ddof=1) * GROUPS
        least = min(least, by_group.sum() ** 2 / (squares + most**2 / 2))
    return least


def twin_ends(
    value: float, part_U: pd.Series, prompts: float, *, positive: bool
) -> tuple[float | None, float | None]:
    """95% interval by t, Hall's t and, where positive, t of the logarithm: the widest."""
    if prompts < MIN_EFFECTIVE:
        return None, None
    spread = float((part_U**2).sum() * GROUPS / (GROUPS - 1)) ** 0.5
    third = float((part_U**3).sum()) * GROUPS**2 / ((GROUPS - 1) * (GROUPS - 2))
    third_by, error = third / spread**3 / 3, spread * (prompts / (prompts - 1)) ** 0.5
    reach = student.ppf(0.975, prompts * GROUPS / (prompts + GROUPS) - 1)
    skewed = [
        (np.cbrt(1 + 3 * third_by * (t - third_by / 2)) - 1) / third_by for t in (reach, -reach)
    ]
    low = value - error * max(reach, skewed[0])
    high = value + error * max(reach, -skewed[1])
    if not positive:
        return low, high
    return max(low, 0.0), max(high, value * np.exp(reach * error / value))


def with_groups(path: Path, frame: pd.DataFrame, seed: int) -> pd.DataFrame:
    frame = frame.copy()
    frame["prompt"] = frame["sequence_id"].map(prompt_hashes(path)).astype(np.uint64)
    frame["group"] = groups_of(frame["prompt"].to_numpy(), seed)
    frame["loss"] = frame["loss"].astype(float)
    return frame


@pytest.mark.parametrize("table", ["fixed", "rollout"])
def test_intervals_are_the_twins(tmp_path: Path, table: str) -> None:
    frame = course((0, 5, 10, 20), prompts=800)
    if table == "rollout":
        # Another text, of other prompts in part, at each step.
        frame = frame[(frame["sequence_id"] + 7 * frame["step"]) % 5 > 0]
        frame = frame[~((frame["step"] == 5) & (frame["token_id"] == 9))]
    path = write(tmp_path, frame, table)
    result = stagnation(path, seed=5, top=0, group_size=1, all_types=True)
    rows = with_groups(path, frame, 5)
    largest = rows.groupby("step")["loss"].max()
    kinds = {row["token_id"]: row["interval"] for row in result.tokens}
    assert sorted(kinds) == list(range(10))
    assert kinds[0] == kinds[1] == "bootstrap"
    others = [v for v, kind in kinds.items() if kind == "linearised"]
    assert len(others) >= 5
    for v in others:
        row, own = token(result, v), rows[rows["token_id"] == v]
        first, last = (own[own["step"] == step] for step in (0, 20))
        ratio_U, delta_U = twin(first, last, "group")
        prompts = min(twin_prompts(part, largest[at]) for part, at in ((first, 0), (last, 20)))
        change, delta = (last["loss"].mean() / first["loss"].mean(),
                         last["loss"].mean() - first["loss"].mean())  # fmt: skip
        assert row["stagnation"] == pytest.approx(change, rel=1e-9)
        ends = twin_ends(change, ratio_U, prompts, positive=True)
        assert same((row["stagnation_low"], row["stagnation_high"]), ends)
        ends = twin_ends(delta, delta_U, prompts, positive=False)
        assert same((row["delta_kl_low"], row["delta_kl_high"]), ends)
        assert row["few_prompts_carry_it"] == (prompts < MIN_EFFECTIVE)
        means = own.groupby("step")["loss"].mean().reindex([0, 5, 10, 20])
        expected = [None if np.isnan(m) else pytest.approx(m, rel=1e-9) for m in means]
        assert row["curve"] == expected
        assert (row["frequency_pre"], row["frequency_post"]) == (len(first), len(last))
        assert row["slope_low"] is None
        assert row["curve_low"] == [None] * 4
        later = means[1:].dropna()
        slope = np.polyfit(np.log(later.index), np.log(later), 1)[0] if len(later) > 2 else None
        assert row["slope"] == (None if slope is None else pytest.approx(slope, rel=1e-7))


def test_other_types_have_the_same_point_values(tmp_path: Path) -> None:
    path = write(tmp_path, course((0, 5, 10), prompts=800))
    drawn, plain = (
        stagnation(path, top=top, group_size=1, all_types=True, rocks=None, top_k=1)
        for top in (20, 0)
    )
    assert {row["interval"] for row in drawn.tokens} == {"bootstrap"}
    assert "linearised" in {row["interval"] for row in plain.tokens}
    for one, other in zip(drawn.tokens, plain.tokens, strict=True):
        assert list(one) == list(other)
        assert one["token_id"] == other["token_id"]
        assert one["curve"] == pytest.approx(other["curve"], rel=1e-12)
    # The two kinds of interval are of one thing; of a single type the ends go by its skewness,
    # which 64 groups of prompts know less well than all prompts do.
    width = [
        np.median([np.log(row["stagnation_high"] / row["stagnation_low"]) for row in rows.tokens])
        for rows in (drawn, plain)
    ]
    assert width[0] == pytest.approx(width[1], rel=0.1)


def test_groups_estimate_what_prompts_as_clusters_would(tmp_path: Path) -> None:
    frame = course((0, 10), prompts=300)
    path = write(tmp_path, frame)
    ratios = []
    for seed in range(10):
        rows = with_groups(path, frame, seed)
        for v in range(10):
            own = rows[rows["token_id"] == v]
            sides = [own[own["step"] == step] for step in (0, 10)]
            by_group, by_prompt = (twin(*sides, by)[0] for by in ("group", "prompt"))
            left = 1 - 1 / GROUPS
            ratios.append((by_group**2).sum() / (by_prompt**2).sum() / left)
    assert np.mean(ratios) == pytest.approx(1, abs=3 * np.std(ratios) / 100**0.5)


def test_few_prompts_and_absent_types_have_none(tmp_path: Path) -> None:
    frame = course((0, 10), prompts=100)
    rare = frame["sequence_id"] // 2 < MIN_EFFECTIVE - 1
    frame = frame[(frame["token_id"] != 9) | rare]
    frame = frame[~((frame["token_id"] == 8) & (frame["step"] == 10))]
    frame.loc[(frame["token_id"] == 2) & (frame["step"] == 10), "loss"] = 0
    result = stagnation(write(tmp_path, frame, "rollout"), top=0, group_size=1, all_types=True)
    nine, eight, two = (token(result, v) for v in (9, 8, 2))
    assert (nine["interval"], nine["stagnation_low"]) == (None, None)
    assert nine["stagnation"] is not None
    assert (eight["interval"], eight["stagnation"], eight["curve"][1]) == (None, None, None)
    assert nine["few_prompts_carry_it"] and not eight["few_prompts_carry_it"]
    # No prompt carries a loss of 0.
    assert (two["interval"], two["stagnation"], two["delta_kl_low"]) == (None, 0, None)
    assert two["few_prompts_carry_it"]


def test_sums_do_not_depend_on_the_cut() -> None:
    rng = np.random.default_rng(0)
    sequence = np.repeat(np.arange(400), 10)
    rows = {
        "sequence_id": sequence,
        "prompt": hash_rows(1, sequence // 2),
        "token_id": rng.integers(0, 12, 4000).astype(np.int32),
        "loss": rng.exponential(1.0, 4000).astype(np.float32),
    }
    whole = GroupSums(3)
    whole.update(rows)
    total = GroupSums(3)
    for start in range(0, 4000, 1000):
        part = GroupSums(3)
        for i in range(start, start + 1000, 250):
            part.update({name: values[i : i + 250] for name, values in rows.items()})
        part.close()
        assert len(part._parts) == 1
        total.merge(part)
    ids = np.arange(15)
    np.testing.assert_allclose(total.of(ids), whole.of(ids), rtol=1e-12)
    assert total.of(ids)[..., 0].sum() == 4000
    assert total.largest == whole.largest == rows["loss"].max()
    low_C, _ = mean_losses(total.of(ids), total.largest).interval()
    assert np.isnan(low_C).tolist() == [False] * 12 + [True] * 3


def test_groups_are_even_and_independent_of_halves() -> None:
    prompt = hash_rows(0, np.arange(64_000))
    count = np.bincount(groups_of(prompt, 3), minlength=GROUPS)
    assert len(count) == GROUPS
    assert abs(count - 1000).max() < 150
    share = np.bincount(groups_of(prompt, 3), halves(prompt, 3)) / count
    assert abs(share - 0.5).max() < 0.08


def test_any_workers_give_the_same(tmp_path: Path) -> None:
    path = write(tmp_path, course((0, 5, 10), prompts=120), cut=4)
    options = {"top": 0, "group_size": 1, "all_types": True}
    one, three = (stagnation(path, engine=Engine(jobs=jobs), **options) for jobs in (1, 3))
    assert one.to_json() == three.to_json()


def test_the_command_shows_every_type(tmp_path: Path) -> None:
    target = tmp_path / "all.json"
    assert run(SAMPLE, "--all", "--top", 1, "--top-k", 1, "--replicates", 100, "-o", target)[0] == 0
    found = json.loads(target.read_text())
    log = rocktok.open(SAMPLE)
    counts = rocktok.detect(log, context="off", all_types=True, post=8).tokens
    seen = {row["token_id"] for row in counts}
    assert {row["token_id"] for row in found["tokens"]} <= seen
    assert len(found["tokens"]) > 150
    assert {row["interval"] for row in found["tokens"]} == {"bootstrap", None}
    # Where more prompts hold them, the others have intervals, too.
    path, csv = write(tmp_path, course((0, 5, 10), prompts=800)), tmp_path / "all.csv"
    options = ("--all", "--top", 1, "--top-k", 1, "--group-size", 1, "--replicates", 100)
    assert run(path, *options, "-o", csv)[0] == 0
    assert set(pd.read_csv(csv)["interval"]) == {"bootstrap", "linearised"}
    _, text, _ = run(path, *options)
    assert "~ interval from the linearised variance" in text
