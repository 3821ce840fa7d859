"""Linearised intervals: by a brute-force twin, against every prompt a cluster, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t as student

import rocktok
from rocktok.analyses.stagnation.every_type import GROUPS, GroupSums, groups_of, spread
from rocktok.engine.passes import Engine
from rocktok.hashing import halves, hash_rows
from rocktok.stats.bootstrap import MIN_PROMPTS
from tests.analyses.attribute.test_attribute import prompt_hashes
from tests.analyses.stagnation.test_stagnation import course, run, stagnation, token, write
from tests.paths import SAMPLE


def twin(first: pd.DataFrame, last: pd.DataFrame, by: str) -> tuple[float, float, int]:
    """Standard errors of log ratio and of difference, and the number of clusters, in plain pandas.

    From the rows of one type at two steps, with the column `by` as clusters.
    """
    log_U, delta_U = pd.Series(dtype=float), pd.Series(dtype=float)
    for sign, rows in ((1, last), (-1, first)):
        mean = rows["loss"].mean()
        residual = (rows["loss"] - mean).groupby(rows[by]).sum()
        log_U = log_U.add(sign * residual / rows["loss"].sum(), fill_value=0)
        delta_U = delta_U.add(sign * residual / len(rows), fill_value=0)
    clusters = len(log_U)
    factor = clusters / (clusters - 1)
    return (
        float((factor * (log_U**2).sum()) ** 0.5),
        float((factor * (delta_U**2).sum()) ** 0.5),
        clusters,
    )


def with_groups(path: Path, frame: pd.DataFrame, seed: int) -> pd.DataFrame:
    frame = frame.copy()
    frame["prompt"] = frame["sequence_id"].map(prompt_hashes(path)).astype(np.uint64)
    frame["group"] = groups_of(frame["prompt"].to_numpy(), seed)
    frame["loss"] = frame["loss"].astype(float)
    return frame


@pytest.mark.parametrize("table", ["fixed", "rollout"])
def test_intervals_are_the_twins(tmp_path: Path, table: str) -> None:
    frame = course((0, 5, 10, 20), prompts=150)
    if table == "rollout":
        # Another text, of other prompts in part, at each step.
        frame = frame[(frame["sequence_id"] + 7 * frame["step"]) % 5 > 0]
        frame = frame[~((frame["step"] == 5) & (frame["token_id"] == 9))]
    path = write(tmp_path, frame, table)
    result = stagnation(path, seed=5, top=0, group_size=1, all_types=True)
    rows = with_groups(path, frame, 5)
    kinds = {row["token_id"]: row["interval"] for row in result.tokens}
    assert sorted(kinds) == list(range(10))
    assert kinds[0] == kinds[1] == "bootstrap"
    others = [v for v, kind in kinds.items() if kind == "linearised"]
    assert len(others) >= 5
    for v in others:
        row, own = token(result, v), rows[rows["token_id"] == v]
        first, last = (own[own["step"] == step] for step in (0, 20))
        log_error, delta_error, clusters = twin(first, last, "group")
        reach = student.ppf(0.975, clusters - 1)
        change, delta = (last["loss"].mean() / first["loss"].mean(),
                         last["loss"].mean() - first["loss"].mean())  # fmt: skip
        assert row["stagnation"] == pytest.approx(change, rel=1e-9)
        ends = change * np.exp(-reach * log_error), change * np.exp(reach * log_error)
        assert (row["stagnation_low"], row["stagnation_high"]) == pytest.approx(ends, rel=1e-9)
        ends = delta - reach * delta_error, delta + reach * delta_error
        assert (row["delta_kl_low"], row["delta_kl_high"]) == pytest.approx(ends, rel=1e-9)
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
    path = write(tmp_path, course((0, 5, 10), prompts=100))
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
        # The two kinds of interval are of one thing.
        width = [np.log(row["stagnation_high"] / row["stagnation_low"]) for row in (one, other)]
        assert width[0] == pytest.approx(width[1], rel=0.5)


def test_groups_estimate_what_prompts_as_clusters_would(tmp_path: Path) -> None:
    frame = course((0, 10), prompts=300)
    path = write(tmp_path, frame)
    ratios = []
    for seed in range(10):
        rows = with_groups(path, frame, seed)
        for v in range(10):
            own = rows[rows["token_id"] == v]
            sides = [own[own["step"] == step] for step in (0, 10)]
            ratios.append(twin(*sides, "group")[0] ** 2 / twin(*sides, "prompt")[0] ** 2)
    assert np.mean(ratios) == pytest.approx(1, abs=3 * np.std(ratios) / 100**0.5)


def test_few_prompts_and_absent_types_have_none(tmp_path: Path) -> None:
    frame = course((0, 10), prompts=100)
    rare = frame["sequence_id"] // 2 < MIN_PROMPTS - 1
    frame = frame[(frame["token_id"] != 9) | rare]
    frame = frame[~((frame["token_id"] == 8) & (frame["step"] == 10))]
    frame.loc[(frame["token_id"] == 2) & (frame["step"] == 10), "loss"] = 0
    result = stagnation(write(tmp_path, frame, "rollout"), top=0, group_size=1, all_types=True)
    nine, eight, two = (token(result, v) for v in (9, 8, 2))
    assert (nine["interval"], nine["stagnation_low"]) == (None, None)
    assert nine["stagnation"] is not None
    assert (eight["interval"], eight["stagnation"], eight["curve"][1]) == (None, None, None)
    # A loss of 0 has no logarithm, but a difference.
    assert (two["interval"], two["stagnation"], two["stagnation_low"]) == (
        "linearised",
        0,
        None,
    )
    assert two["delta_kl_low"] < two["delta_kl"] < two["delta_kl_high"]


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
    assert (
        np.isnan(spread(total.of(ids), whole.of(ids)).ratio_low_C).tolist()
        == [False] * 12 + [True] * 3
    )


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
    assert run(SAMPLE, "--all", "--top", 5, "--replicates", 100, "-o", target)[0] == 0
    found = json.loads(target.read_text())
    log = rocktok.open(SAMPLE)
    counts = rocktok.detect(log, context="off", all_types=True, post=8).tokens
    seen = {row["token_id"] for row in counts}
    assert {row["token_id"] for row in found["tokens"]} <= seen
    assert len(found["tokens"]) > 150
    assert {row["interval"] for row in found["tokens"]} == {"bootstrap", "linearised", None}
    csv = tmp_path / "all.csv"
    assert run(SAMPLE, "--all", "--top", 5, "--replicates", 100, "-o", csv)[0] == 0
    table = pd.read_csv(csv)
    assert set(table["interval"].dropna()) == {"bootstrap", "linearised"}
    _, text, _ = run(SAMPLE, "--all", "--top", 0, "--group-size", 1, "--replicates", 100)
    assert "~ interval by linearised variance" in text
