"""Simulated runs on which it is known whether rocks improve less: rows in memory, to a verdict.

240 types of unequal frequency and first loss, 200 prompts of unequal difficulty, three steps of one
text. Half of the types recur in like contexts. Rocks are those of them that are hard on half 0 at
the first two steps beyond chance (a binomial vote per prompt, Benjamini-Hochberg), with positions
that are hard half as often again as all are; changes are measured on half 1 from the second of
these steps to the last.

Array suffixes: N positions; G prompts; T types; B replicates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import binom

from rocktok.hashing import halves, hash_rows
from rocktok.stats.adjusted import (
    AdjustedContrast,
    adjusted_contrast,
    loss_and_count,
    type_values,
)
from rocktok.stats.bootstrap import poisson_weights
from rocktok.stats.fdr import benjamini_hochberg
from rocktok.stats.verdicts import verdicts

TYPES, PROMPTS, POSITIONS = 240, 200, 300

#: The first is the one that is shown.
CUTOFFS = 0.05, 0.01, 0.2


@dataclass(frozen=True)
class World:
    """What a type's logarithm of the ratio depends on.

    own: standard deviation between types, whatever else; by_level: per nat of log loss;
    rocks: added to the rocks of the middle cutoff.
    """

    own: float = 0.0
    by_level: float = 0.0
    rocks: float = 0.0


LOG_1_5 = float(np.log(1.5))

WORLDS = {
    "learning independent of type": World(),
    "independent, types differ": World(own=0.2),
    "harder types learn more": World(by_level=-0.15),
    "harder types learn less, types differ": World(own=0.2, by_level=0.15),
    "rocks 1.5 times": World(rocks=LOG_1_5),
    "rocks 1.5 times, types differ": World(own=0.2, rocks=LOG_1_5),
}


def sums_of(type_N: np.ndarray, prompt_N: np.ndarray, loss_N: np.ndarray, value: Any) -> Any:
    """Counts and losses by prompt and type: (G, T) each."""
    key_N = prompt_N * TYPES + type_N
    return [np.bincount(key_N, w, minlength=PROMPTS * TYPES).reshape(PROMPTS, TYPES)
            for w in (None, loss_N, value)]  # fmt: skip


def contrasts(world: World, seed: int, replicates: int = 1000) -> dict[float, AdjustedContrast]:
    """The adjusted contrast of a run, with rocks at each cutoff."""
    rng = np.random.default_rng([seed, 20])
    weight_T = rng.permutation(1 / np.arange(1, TYPES + 1) ** 0.5)
    level_T = np.exp(rng.normal(0, 0.6, TYPES))
    recurring_T = rng.random(TYPES) < 0.5
    prompt_N = np.repeat(np.arange(PROMPTS), POSITIONS)
    type_N = rng.choice(TYPES, len(prompt_N), p=weight_T / weight_T.sum())
    easy_G = rng.lognormal(0, 0.4, PROMPTS)
    first_N = level_T[type_N] * easy_G[prompt_N] * rng.exponential(1.0, len(prompt_N))
    second_N = 0.8 * first_N * rng.gamma(4, 0.25, len(prompt_N))
    hash_G = hash_rows(seed, np.arange(PROMPTS))
    half_G = halves(hash_G, seed)
    rocks = rocks_at_cutoffs(type_N, prompt_N, first_N, second_N, half_G, recurring_T)
    change_T = world.own * rng.normal(size=TYPES) + world.by_level * np.log(level_T)
    change_T[rocks[CUTOFFS[0]]] += world.rocks
    learned_G = rng.lognormal(0, 0.3, PROMPTS)
    last_N = 0.6 * second_N * np.exp(change_T)[type_N] * learned_G[prompt_N]
    last_N *= rng.gamma(2, 0.5, len(prompt_N))
    weight_GB = poisson_weights(seed, replicates, hash_G)
    count_GT, second_GT, last_GT = sums_of(type_N, prompt_N, second_N, last_N)
    often_T = np.ones(TYPES, dtype=bool)
    for half in range(2):
        often_T &= count_GT[half_G == half].sum(axis=0) >= 20
        often_T &= (count_GT[half_G == half] > 0).sum(axis=0) >= 5
    token_T = np.flatnonzero(often_T)

    def loss_and_count_of(loss_GT: np.ndarray, half: int) -> np.ndarray:
        here = half_G == half
        weight_WG = np.vstack([np.ones(here.sum()), weight_GB[here].T])
        sums = [(weight_WG @ x_GT[here][:, often_T]).T for x_GT in (count_GT, loss_GT)]
        return np.stack(loss_and_count(sums))

    second_2TW, (last_TW, _) = loss_and_count_of(second_GT, 1), loss_and_count_of(last_GT, 1)
    changes = type_values(
        token_T, loss_and_count_of(second_GT, 0), second_2TW[1], last_TW - second_2TW[0]
    )
    return {fdr: adjusted_contrast(changes, ids, seed) for fdr, ids in rocks.items()}


def rocks_at_cutoffs(
    type_N: np.ndarray,
    prompt_N: np.ndarray,
    first_N: np.ndarray,
    second_N: np.ndarray,
    half_G: np.ndarray,
    recurring_T: np.ndarray,
) -> dict[float, np.ndarray]:
    """Hard at both steps more often than the positions of half 0 are; among recurring types."""
    here_N = half_G[prompt_N] == 0
    cuts = [np.quantile(loss_N[here_N], 0.8) for loss_N in (first_N, second_N)]
    hard_N = (first_N >= cuts[0]) & (second_N >= cuts[1]) & here_N
    count_GT, _, hard_GT = sums_of(type_N, prompt_N, first_N, hard_N)
    count_GT[half_G != 0] = 0
    held_T = (count_GT > 0).sum(axis=0)
    share_GT = np.divide(hard_GT, count_GT, out=np.zeros_like(hard_GT), where=count_GT > 0)
    expected_GT = (count_GT > 0) * (hard_GT.sum(axis=1) / count_GT.sum(axis=1).clip(1))[:, None]
    vote_T, expected_T = share_GT.sum(axis=0), expected_GT.sum(axis=0)
    chance_T = expected_T / held_T.clip(1)
    p_T = np.where(recurring_T, binom.sf(np.floor(vote_T) - 1, held_T, chance_T), 1.0)
    q_T = benjamini_hochberg(p_T)
    return {fdr: np.flatnonzero((q_T <= fdr) & (vote_T >= 1.5 * expected_T)) for fdr in CUTOFFS}


def rates(name: str, seeds: range, replicates: int = 1000) -> dict[str, float]:
    """Shares of runs: comparable, rejected at the shown cutoff, covered, and verdicts."""
    world = WORLDS[name]
    runs = []
    for seed in seeds:
        rows = contrasts(world, seed, replicates)
        (verdict,) = verdicts({fdr: [row] for fdr, row in rows.items()})
        runs.append((rows[CUTOFFS[0]], verdict))
    shown = [row for row, _ in runs if row["comparable"] and row["low"] is not None]

    def share(values: list[bool]) -> float:
        return float(np.mean(values)) if values else float("nan")

    return {
        "rocks": float(np.mean([row["measured"] for row, _ in runs])),
        "supported": float(np.mean([row["supported"] for row, _ in runs])),
        "comparable": len(shown) / len(runs),
        "difference": float(np.mean([row["difference"] for row in shown])),
        "sd": float(np.std([row["difference"] for row in shown])),
        "error": float(np.mean([(row["high"] - row["low"]) / 3.92 for row in shown])),
        "rejected": share([row["p_holm"] <= 0.05 for row in shown]),
        "covered": share([row["low"] <= world.rocks <= row["high"] for row in shown]),
        **{verdict: share([v == verdict for _, v in runs])
           for verdict in ("improve less", "improve more", "no difference", "inconclusive",
                           "depends on the cutoff", "not comparable")},
    }  # fmt: skip
