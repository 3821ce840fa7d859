"""How often intervals cover: rows in memory, through the code of the commands, to the rates.

Worlds: losses of 48 types with `light` tails (exponential) or `heavy` ones (log-normal, the largest
of a type's thousand losses 65 times its mean), a prompt's losses multiplied by its own difficulty;
and the prompts of the sample, drawn with replacement, of which all 256 are the truth. Run as a
script, it prints the table of docs/statistics.md.

Array suffixes: N rows; T types.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from rocktok.analyses.attribute.shares import Shares, quantities
from rocktok.analyses.stability.overlap import in_first_k
from rocktok.analyses.stability.subsamples import Subsamples, limits
from rocktok.analyses.stagnation.every_type import GroupSums, mean_losses
from rocktok.analyses.stagnation.learning import change_rows, corpus_row, group_rows
from rocktok.analyses.stagnation.loss_curves import QUANTITIES, LossCurves
from rocktok.hashing import hash_rows
from rocktok.stats.bootstrap import PromptBootstrap
from rocktok.stats.intervals import ends
from rocktok.stats.sums import TypeSums
from tests.paths import SAMPLE

Rows = dict[str, np.ndarray]

TYPES, POSITIONS, STEPS = 48, 48, (10, 20, 40)

#: Of what a loss was one step before; the logarithm falls by so much with that of the step.
LEFT = 0.6

FREQUENCY_T = 1 / np.arange(1, TYPES + 1) ** 0.7
FREQUENCY_T /= FREQUENCY_T.sum()
LEVEL_T = np.exp(np.random.default_rng(5).permutation(np.linspace(-0.7, 0.7, TYPES)))

#: Standard deviation of the logarithm of a loss with heavy tails.
HEAVY = 1.8

GRADIENTS = quantities({"grad_norm"})


@dataclass(frozen=True)
class Truth:
    """Of each type: share of positions, of losses and gradients at the last step, and mean losses.

    `loss_ST`: by step.
    """

    position_T: np.ndarray
    gradient_T: np.ndarray
    loss_ST: np.ndarray

    def share(self, ids: np.ndarray) -> dict[str, float]:
        sums = {
            "position_share": self.position_T,
            "loss_share": self.position_T * self.loss_ST[-1],
            "grad_share": self.position_T * self.gradient_T,
        }
        shares = {name: float(of_T[ids].sum() / of_T.sum()) for name, of_T in sums.items()}
        return {**shares, "concentration": shares["grad_share"] / shares["position_share"]}


def simulated(seed: int, prompts: int, tail: str) -> tuple[list[Rows], Truth]:
    rng = np.random.default_rng([seed, prompts, 31])
    text = rng.choice(TYPES, (prompts, POSITIONS), p=FREQUENCY_T)
    easy = rng.lognormal(0, 0.4, prompts)[:, None]
    same = {
        "token_id": text.ravel(),
        "sequence_id": np.repeat(np.arange(prompts), POSITIONS),
        "prompt": np.repeat(hash_rows(seed, np.arange(prompts)), POSITIONS),
    }
    size = rng.normal(size=text.shape)
    rows = []
    for step in range(len(STEPS)):
        if tail == "light":
            part = rng.gamma(2, 0.5, text.shape) if step else rng.exponential(1.0, text.shape)
            size = part if not step else size * part
        else:
            size = 0.7 * size + 0.51**0.5 * rng.normal(size=text.shape) if step else size
        unit = size if tail == "light" else np.exp(HEAVY * size - HEAVY**2 / 2)
        loss = LEFT**step * LEVEL_T[text] * easy * unit
        # The square root halves the tail, as gradients have less of one than losses.
        gradient = np.sqrt(loss) * rng.gamma(4, 0.25, text.shape)
        rows.append({**same, "loss": loss.ravel(), "grad_norm": gradient.ravel()})
    mean_ST = LEFT ** np.arange(len(STEPS))[:, None] * LEVEL_T * np.exp(0.4**2 / 2)
    return rows, Truth(FREQUENCY_T, np.sqrt(LEVEL_T), mean_ST)


@lru_cache(maxsize=1)
def population() -> tuple[list[Rows], Truth]:
    """Rows of the sample's fixed text at three steps, types numbered from 0, prompts too."""
    import rocktok
    from rocktok.engine.passes import Engine
    from rocktok.engine.source import Source
    from rocktok.log.sequences import load_prompts

    log = rocktok.open(str(SAMPLE))
    steps = log.complete_steps("fixed")
    found = []
    for step in (steps[0], steps[len(steps) // 2], steps[-1]):
        collect = _Collect()
        Engine(jobs=1).run(Source(log, "fixed", None, step, load_prompts(log)), collect)
        rows = collect.result()
        rows["token_id"] = np.unique(rows["token_id"], return_inverse=True)[1]
        rows["prompt"] = np.unique(rows["prompt"], return_inverse=True)[1]
        order = np.argsort(rows["prompt"], kind="stable")
        found.append({name: values[order] for name, values in rows.items()})
    count_T = np.bincount(found[0]["token_id"])
    loss_ST = np.stack([np.bincount(r["token_id"], r["loss"]) / count_T for r in found])
    gradient_T = np.bincount(found[-1]["token_id"], found[-1]["grad_norm"]) / count_T
    return found, Truth(count_T / count_T.sum(), gradient_T, loss_ST)


class _Collect:
    needs = ("token_id", "sequence_id", "prompt", "loss", "grad_norm")

    def __init__(self) -> None:
        self.batches: list[Rows] = []

    def update(self, batch: Rows) -> None:
        self.batches.append({name: np.array(batch[name]) for name in self.needs})

    def merge(self, other: _Collect) -> None:
        self.batches += other.batches

    def result(self) -> Rows:
        return {
            name: np.concatenate([batch[name] for batch in self.batches]).astype(
                np.float64 if name in ("loss", "grad_norm") else np.uint64
            )
            for name in self.needs
        }


def resampled(seed: int, prompts: int) -> tuple[list[Rows], Truth]:
    """Prompts of the sample, drawn with replacement."""
    steps, truth = population()
    first = np.searchsorted(steps[0]["prompt"], np.arange(257))
    drawn = np.random.default_rng([seed, prompts, 32]).integers(0, 256, prompts)
    at = np.concatenate([np.arange(first[p], first[p + 1]) for p in drawn])
    place = np.repeat(np.arange(prompts), (first[1:] - first[:-1])[drawn])
    rows = []
    for of_step in steps:
        taken = {name: of_step[name][at] for name in ("token_id", "loss", "grad_norm")}
        rows.append({**taken, "sequence_id": place, "prompt": hash_rows(seed, place)})
    return rows, truth


#: A number's name, whether it has an interval, and whether that covers.
Outcome = tuple[str, bool, bool]


def _outcome(name: str, low: float | None, high: float | None, truth: float) -> Outcome:
    given = low is not None and high is not None
    return name, given, given and low <= truth <= high  # type: ignore[operator]


def outcomes(rows: list[Rows], truth: Truth, seed: int, replicates: int) -> Iterator[Outcome]:
    """Of every kind of interval over prompts that commands give."""
    held_T = np.bincount(rows[0]["token_id"].astype(np.int64), minlength=len(truth.position_T))
    types = np.flatnonzero(held_T >= 20)
    by_loss = types[np.argsort(-(truth.position_T * truth.loss_ST[0])[types])]
    rocks = np.sort(by_loss[:12])
    others = np.sort(np.random.default_rng(seed).permutation(by_loss[12:])[:12])
    yield from _shares(rows[-1], truth, types, rocks, seed, replicates)
    yield from _learning(rows, truth, types, {"rocks": rocks, "random": others}, seed, replicates)
    yield from _every_type(rows, truth, types, seed)
    yield from _ranks(rows[-1], truth, types, seed, replicates)


def _shares(
    rows: Rows, truth: Truth, types: np.ndarray, rocks: np.ndarray, seed: int, replicates: int
) -> Iterator[Outcome]:
    sums = TypeSums(("loss", "grad_norm"))
    bootstrap = PromptBootstrap(types, GRADIENTS, seed, replicates)
    for each in (sums, bootstrap):
        each.update(rows)  # type: ignore[attr-defined]
    shares = Shares(sums, bootstrap)
    for whose, ids in [("a type's", np.array([v])) for v in types] + [("a group's", rocks)]:
        row: Any = shares.of_types(ids)
        for name, true in truth.share(ids).items():
            yield _outcome(f"{whose} {name}", row[f"{name}_low"], row[f"{name}_high"], true)


def _learning(
    steps: list[Rows], truth: Truth, types: np.ndarray, groups: dict[str, np.ndarray], seed: int,
    replicates: int,
) -> Iterator[Outcome]:  # fmt: skip
    members = {name: tuple(ids.tolist()) for name, ids in groups.items()}
    curves = LossCurves(members, STEPS[0])
    for step, rows in zip(STEPS, steps, strict=True):
        bootstrap = PromptBootstrap(types, QUANTITIES, seed, replicates)
        bootstrap.update(rows)
        curves.add(step, bootstrap)
    x_S = np.log(STEPS) - np.log(STEPS).mean()
    pre_T, post_T = truth.loss_ST[0], truth.loss_ST[-1]
    with np.errstate(divide="ignore"):
        slope_T = x_S @ np.log(truth.loss_ST) / (x_S @ x_S)
    for row in change_rows(curves, types):
        v = row["token_id"]
        true = {
            "stagnation": post_T[v] / pre_T[v],
            "delta_kl": post_T[v] - pre_T[v],
            "slope": slope_T[v],
        }
        for name, value in true.items():
            low, high = row[f"{name}_low"], row[f"{name}_high"]  # type: ignore[literal-required]
            yield _outcome(f"a type's {name}", low, high, value)
        yield _outcome("a type's curve", row["curve_low"][-1], row["curve_high"][-1], post_T[v])
    changes = {}
    for group in group_rows(curves):
        ids = groups[group["group"]]
        pre, post = pre_T[ids].mean(), post_T[ids].mean()
        changes[group["group"]] = post / pre
        low, high = group["stagnation_low"], group["stagnation_high"]
        yield _outcome("a group's stagnation", low, high, post / pre)
        yield _outcome("a group's delta_kl", group["delta_kl_low"], group["delta_kl_high"],
                       post - pre)  # fmt: skip
    ours, theirs = (
        curves.ends[1].group(curves.ends[0].places(ids))
        / curves.ends[0].group(curves.ends[0].places(ids))
        for ids in groups.values()
    )
    low, high = ends((ours / theirs).interval())
    yield _outcome("ratio of two groups", low, high, changes["rocks"] / changes["random"])
    corpus = corpus_row(curves)
    pre, post = ((truth.position_T * loss_T).sum() for loss_T in (pre_T, post_T))
    low, high = corpus["stagnation_low"], corpus["stagnation_high"]
    yield _outcome("the corpus's stagnation", low, high, post / pre)


def _every_type(steps: list[Rows], truth: Truth, types: np.ndarray, seed: int) -> Iterator[Outcome]:
    means = []
    for rows in (steps[0], steps[-1]):
        groups = GroupSums(seed)
        groups.update(rows)
        means.append(mean_losses(groups.of(types), groups.largest))
    pre_T, post_T = truth.loss_ST[0][types], truth.loss_ST[-1][types]
    for name, (low_T, high_T), true_T in (
        ("stagnation", (means[1] / means[0]).interval(), post_T / pre_T),
        ("delta_kl", (means[1] - means[0]).interval(positive=False), post_T - pre_T),
    ):
        for low, high, true in zip(low_T, high_T, true_T, strict=True):
            yield _outcome(f"a type's {name}, linearised", *ends((low, high)), true)


def _ranks(
    rows: Rows, truth: Truth, types: np.ndarray, seed: int, replicates: int
) -> Iterator[Outcome]:
    prompt_P = np.unique(rows["prompt"])
    subsamples = Subsamples(types, seed, limits(seed, 1, [1], prompt_P), min(200, replicates))
    subsamples.update({**rows, "token_id": rows["token_id"].astype(np.int64)})
    ranks = in_first_k(subsamples.types, subsamples.replicated(), subsamples.few_prompts, 12)
    score_T = (truth.position_T * truth.loss_ST[-1])[types]
    for v, score in zip(types.tolist(), score_T, strict=True):
        true = 1 + int((score_T > score).sum())
        yield _outcome("a type's rank", ranks[v]["rank_low"], ranks[v]["rank_high"], true)


def coverage(
    tail: str, prompts: int, seeds: range, replicates: int = 400
) -> dict[str, tuple[int, int, int]]:
    """Name → numbers, how many have an interval, and how many intervals cover.

    `tail`: "light", "heavy" or "sample".
    """
    counts: dict[str, np.ndarray] = {}
    for seed in seeds:
        rows, truth = (
            resampled(seed, prompts) if tail == "sample" else simulated(seed, prompts, tail)
        )
        for name, given, covers in outcomes(rows, truth, seed, replicates):
            counts[name] = counts.get(name, np.zeros(3, int)) + np.array((1, given, covers))
    return {name: tuple(values.tolist()) for name, values in counts.items()}


if __name__ == "__main__":
    tail, prompts, runs = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    for name, (numbers, given, covers) in coverage(tail, prompts, range(runs)).items():
        rate = f"{covers / given:.3f}" if given else "–"
        print(f"{tail:6} {prompts:4} {name:32} {rate} {given} of {numbers}", flush=True)
