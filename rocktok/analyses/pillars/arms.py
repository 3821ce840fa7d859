"""Arms of one benchmark against its baseline: effects, tests, categories, and what groups say.

Array suffixes: P problems; D draws; A arms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median

import numpy as np

from rocktok._types import Array
from rocktok.analyses.pillars.asymmetry import rank_sum_p
from rocktok.analyses.pillars.paired import (
    flips_p,
    interval,
    paired_difference,
    percentile_p,
    resampled,
)
from rocktok.analyses.pillars.power import discordance_bound, minimum_effect, problems_needed
from rocktok.analyses.pillars.result import (
    EQUIVALENT,
    INCONCLUSIVE,
    PILLAR,
    STUMBLING,
    ArmRow,
    ContrastRow,
    GlobalRow,
    PairRow,
    PillarsParams,
    PowerRow,
    SourceRow,
)
from rocktok.hashing import prompt_hash
from rocktok.outcomes import GROUPS, MODES, Arm, Outcomes
from rocktok.stats.bootstrap import holm
from rocktok.stats.fdr import benjamini_hochberg


@dataclass(frozen=True)
class Benchmark:
    """One table of outcomes, by the name that rows have of it.

    Attributes:
        name: of the benchmark, unlike that of any other table.
        outcomes: the table.
        params: options.
        places: of the arms that fired, in `outcomes.arms`.
        dropped: (mode, group) of each arm that never fired.
    """

    name: str
    outcomes: Outcomes
    params: PillarsParams
    places: tuple[int, ...]
    dropped: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, name: str, outcomes: Outcomes, params: PillarsParams) -> Benchmark:
        """Tell apart the arms that fired."""
        fired_A: Array = np.logical_or.reduce(outcomes.columns["fired"], axis=(1, 2))
        own = range(outcomes.baselines, len(outcomes.arms))
        silent = [outcomes.arms[a] for a in own if not fired_A[a]]
        dropped = [(arm.mode, arm.group) for arm in silent]
        dropped += [(row["mode"], row["group"]) for row in outcomes.never_fired]
        return cls(name, outcomes, params, tuple(a for a in own if fired_A[a]), tuple(dropped))

    @property
    def arms(self) -> list[Arm]:
        """Arms that fired."""
        return [self.outcomes.arms[a] for a in self.places]

    @property
    def problems(self) -> int:
        """Number of problems."""
        return len(self.outcomes.problems)

    @cached_property
    def correct_AP(self) -> Array:
        """Correct draws of each problem in each arm, baselines first."""
        counts_AP: Array = self.outcomes.columns["correct"].sum(axis=2, dtype=np.int64)
        return counts_AP

    @cached_property
    def shared_draws(self) -> bool:
        """Whether texts in which an arm did not act are those of the baseline.

        Told by their lengths and answers, all of which must be the same.
        """
        columns = self.outcomes.columns
        silent = ~columns["fired"][list(self.places)]
        same = [
            (columns[name][list(self.places)] == columns[name][:1])[silent].all()
            for name in ("correct", "num_tokens")
        ]
        return bool(silent.any() and all(same))

    @cached_property
    def distinct_baselines(self) -> int:
        """Number of baselines; 1 where all hold the same, as greedy decoding makes them."""
        columns, baselines = self.outcomes.columns, self.outcomes.baselines
        same = all(
            (columns[name][:baselines] == columns[name][:1]).all()
            for name in ("correct", "num_tokens")
        )
        return 1 if same else baselines

    def truncated(self, place: int) -> float | None:
        """Share of an arm's texts that were cut at the limit; None where the file does not say."""
        cut = self.outcomes.columns.get("truncated")
        return None if cut is None else float(cut[place].mean())

    def text(self, token_id: int) -> str | None:
        """Text of a token, where the file has it."""
        return (self.outcomes.about.get("token_texts") or {}).get(str(token_id))

    def source(self) -> SourceRow:
        """What was read."""
        about, correct = self.outcomes.about, self.outcomes.columns["correct"]
        accuracies = correct[: self.outcomes.baselines].mean(axis=(1, 2)).tolist()
        return {
            "path": self.outcomes.name,
            "benchmark": self.name,
            "problems": self.problems,
            "draws": self.outcomes.draws,
            "arms": len(self.places),
            "never_fired": len(self.dropped),
            "accuracy": accuracies[0],
            "baseline_accuracies": accuracies,
            "truncated": self.truncated(0),
            "shared_draws": self.shared_draws,
            "tokenizer": about.get("tokenizer"),
            "models": dict(about.get("models") or {}),
            "decoding": dict(about.get("decoding") or {}),
        }


def _seed(params: PillarsParams, *names: str) -> tuple[int, ...]:
    return (params.seed & 0xFFFFFFFF, *(prompt_hash(name) for name in names))


def arm_rows(benchmark: Benchmark) -> list[ArmRow]:
    """One row per arm that fired, in the order of the file; each group is one family of tests."""
    outcomes, params = benchmark.outcomes, benchmark.params
    correct_AP = benchmark.correct_AP
    whole = benchmark.problems * outcomes.draws
    difference_AP = correct_AP[list(benchmark.places)] - correct_AP[0]
    if params.p_value == "percentile":
        p_A = percentile_p(difference_AP.T).tolist()
    else:
        p_A = [flips_p(difference_P) for difference_P in difference_AP]
    families: dict[str, list[int]] = {}
    for index, arm in enumerate(benchmark.arms):
        families.setdefault(arm.group, []).append(index)
    corrected = _corrected(p_A, list(families.values()))
    rows: list[ArmRow] = []
    for index, (arm, difference_P) in enumerate(zip(benchmark.arms, difference_AP, strict=True)):
        means_B = resampled(
            difference_P, params.replicates, _seed(params, benchmark.name, arm.name)
        )
        means_B = means_B / outcomes.draws
        low, high = interval(means_B, 1 - params.level)
        low90, high90 = interval(means_B, 1 - 2 * params.level)
        bound = discordance_bound(difference_P, outcomes.draws)
        tests = len(families[arm.group])
        row: ArmRow = {
            "benchmark": benchmark.name,
            "arm": arm.name,
            "token_id": arm.token_id,
            "token": benchmark.text(arm.token_id),
            "mode": arm.mode,
            "group": arm.group,
            "control_of": arm.control_of,
            "problems": benchmark.problems,
            "fired": int(outcomes.columns["fired"][benchmark.places[index]].any(axis=1).sum()),
            "accuracy": int(correct_AP[benchmark.places[index]].sum()) / whole,
            "truncated": benchmark.truncated(benchmark.places[index]),
            "delta": int(difference_P.sum()) / whole,
            "ci_low": low,
            "ci_high": high,
            "ci90_low": low90,
            "ci90_high": high90,
            "gained": int((difference_P > 0).sum()),
            "lost": int((difference_P < 0).sum()),
            "p_value": p_A[index],
            "p_holm": corrected["holm"][index],
            "p_bonferroni": corrected["bonferroni"][index],
            "q_bh": corrected["bh"][index],
            "category": "",
            "minimum_effect": minimum_effect(bound, benchmark.problems, tests, params.level),
        }
        row["category"] = category(row, params)
        rows.append(row)
    return rows


def _corrected(p_A: Sequence[float], families: Sequence[Sequence[int]]) -> dict[str, list[float]]:
    """p-values corrected within each family."""
    made = {name: [0.0] * len(p_A) for name in ("holm", "bonferroni", "bh")}
    for family in families:
        own = [min(1.0, p_A[index]) for index in family]
        by_name = {
            "holm": holm(own),
            "bonferroni": [min(1.0, len(own) * p) for p in own],
            "bh": benjamini_hochberg(np.array(own)).tolist(),
        }
        for name, values in by_name.items():
            for index, value in zip(family, values, strict=True):
                made[name][index] = value
    return made


def category(row: ArmRow, params: PillarsParams) -> str:
    """What an arm is: rejected and beyond the margin, inside it, or neither."""
    rejected = corrected_p(row, params.correction) <= params.level
    if rejected and abs(row["delta"]) >= params.margin:
        return PILLAR if row["delta"] < 0 else STUMBLING
    inside = -params.margin <= row["ci90_low"] and row["ci90_high"] <= params.margin
    return EQUIVALENT if inside else INCONCLUSIVE


def corrected_p(row: ArmRow, correction: str) -> float:
    """The p-value of an arm after a correction."""
    return {
        "holm": row["p_holm"],
        "bonferroni": row["p_bonferroni"],
        "bh": row["q_bh"],
        "none": row["p_value"],
    }[correction]


def global_rows(benchmark: Benchmark, rows: Sequence[ArmRow]) -> list[GlobalRow]:
    """What the arms of each group and mode say together."""
    outcomes, params = benchmark.outcomes, benchmark.params
    correct_AP = benchmark.correct_AP
    total_A = correct_AP.sum(axis=1)
    # Arms that share texts with one baseline are not exchangeable with the others.
    baselines_R = total_A[: 1 if benchmark.shared_draws else benchmark.distinct_baselines]
    made: list[GlobalRow] = []
    for mode, group, indices in _grouped(rows):
        own = [rows[index] for index in indices]
        places = [benchmark.places[index] for index in indices]
        deltas = [row["delta"] for row in own]
        difference_P = (correct_AP[places] - correct_AP[0]).sum(axis=0)
        means_B = resampled(
            difference_P, params.replicates, _seed(params, benchmark.name, mode, group)
        )
        low, high = interval(means_B / (outcomes.draws * len(own)), 1 - params.level)
        placebo = [
            benchmark.places[index]
            for index, row in enumerate(rows)
            if (row["mode"], row["group"]) == (mode, "placebo")
        ]
        counts = {one: sum(row["category"] == one for row in own)
                  for one in (PILLAR, STUMBLING, EQUIVALENT, INCONCLUSIVE)}  # fmt: skip
        made.append({
            "benchmark": benchmark.name,
            "mode": mode,
            "group": group,
            "arms": len(own),
            "never_fired": benchmark.dropped.count((mode, group)),
            "pillar": counts[PILLAR],
            "stumbling": counts[STUMBLING],
            "equivalent": counts[EQUIVALENT],
            "inconclusive": counts[INCONCLUSIVE],
            "negative": sum(delta < 0 for delta in deltas),
            "zero": sum(delta == 0 for delta in deltas),
            "positive": sum(delta > 0 for delta in deltas),
            "mean_delta": sum(deltas) / len(deltas),
            "ci_low": low,
            "ci_high": high,
            "baselines": len(baselines_R),
            "p_asymmetry": rank_sum_p(baselines_R, total_A[places]),
            "p_placebo": rank_sum_p(total_A[places], total_A[placebo])
            if group == "rock" and placebo
            else None,
        })  # fmt: skip
    return made


def _grouped(rows: Sequence[ArmRow]) -> list[tuple[str, str, list[int]]]:
    """(mode, group, places of its rows), in one order."""
    made = []
    for mode in MODES:
        for group in GROUPS:
            places = [
                i for i, row in enumerate(rows) if (row["mode"], row["group"]) == (mode, group)
            ]
            if places:
                made.append((mode, group, places))
    return made


def power_rows(benchmark: Benchmark, rows: Sequence[ArmRow]) -> list[PowerRow]:
    """What each family could have told."""
    params, draws, n = benchmark.params, benchmark.outcomes.draws, benchmark.problems
    correct_AP = benchmark.correct_AP
    made: list[PowerRow] = []
    for group in GROUPS:
        places = [i for i, row in enumerate(rows) if row["group"] == group]
        if not places:
            continue
        bounds = [
            discordance_bound(correct_AP[benchmark.places[i]] - correct_AP[0], draws)
            for i in places
        ]
        bound = median(bounds)
        effects = [rows[i]["minimum_effect"] for i in places]
        known = [effect for effect in effects if effect is not None]
        made.append({
            "benchmark": benchmark.name,
            "group": group,
            "tests": len(places),
            "problems": n,
            "discordance": bound,
            "minimum_effect": minimum_effect(bound, n, len(places), params.level),
            "minimum_effect_low": min(known, default=None),
            "minimum_effect_high": max(known) if len(known) == len(effects) else None,
            "single_effect": minimum_effect(bound, n, 1, params.level),
            "problems_for_margin": problems_needed(
                bound, params.margin, len(places), params.level
            ),
        })  # fmt: skip
    return made


def pair_rows(
    benchmark: Benchmark, rows: Sequence[ArmRow]
) -> tuple[list[PairRow], list[ContrastRow]]:
    """Rocks against their controls: one row per pair, and one per mode and group of controls."""
    params, draws = benchmark.params, benchmark.outcomes.draws
    correct_AP, whole = benchmark.correct_AP, benchmark.problems * benchmark.outcomes.draws
    rocks = {(r["mode"], r["token_id"]): i for i, r in enumerate(rows) if r["group"] == "rock"}
    pairs: list[PairRow] = []
    sums: dict[tuple[str, str], tuple[int, Array]] = {}
    for index, row in enumerate(rows):
        at = rocks.get((row["mode"], row["control_of"])) if row["control_of"] is not None else None
        if at is None:
            continue
        rock = rows[at]
        difference_P = correct_AP[benchmark.places[at]] - correct_AP[benchmark.places[index]]
        names = benchmark.name, rock["arm"], row["arm"]
        means_B = resampled(difference_P, params.replicates, _seed(params, *names)) / draws
        low, high = interval(means_B, 1 - params.level)
        pairs.append({
            "benchmark": benchmark.name,
            "mode": row["mode"],
            "token_id": rock["token_id"],
            "token": rock["token"],
            "control_token_id": row["token_id"],
            "control_token": row["token"],
            "control_group": row["group"],
            "delta": rock["delta"],
            "control_delta": row["delta"],
            "difference": int(difference_P.sum()) / whole,
            "ci_low": low,
            "ci_high": high,
            "p_value": flips_p(difference_P),
            "p_holm": 1.0,
        })  # fmt: skip
        count, sum_P = sums.get((row["mode"], row["group"]), (0, np.zeros_like(difference_P)))
        sums[row["mode"], row["group"]] = count + 1, sum_P + difference_P
    for row_, p in zip(pairs, holm([pair["p_value"] for pair in pairs]), strict=True):
        row_["p_holm"] = p
    contrasts: list[ContrastRow] = []
    for (mode, group), (count, sum_P) in sums.items():
        means_B = resampled(
            sum_P, params.replicates, _seed(params, benchmark.name, "contrast", mode, group)
        )
        low, high = interval(means_B / (draws * count), 1 - params.level)
        own = [p for p in pairs if (p["mode"], p["control_group"]) == (mode, group)]
        over_pairs = paired_difference(
            {p["token_id"]: p["delta"] for p in own},
            [(p["token_id"], p["control_delta"]) for p in own],
            params.level,
        )
        contrasts.append({
            "benchmark": benchmark.name,
            "mode": mode,
            "control_group": group,
            "pairs": count,
            "difference": int(sum_P.sum()) / (whole * count),
            "ci_low": low,
            "ci_high": high,
            "p_value": flips_p(sum_P),
            "pairs_low": over_pairs.low,
            "pairs_high": over_pairs.high,
        })  # fmt: skip
    return pairs, contrasts
