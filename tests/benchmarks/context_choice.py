"""Which similarity of contexts finds most, where the level is the same for all.

    python -m tests.benchmarks.context_choice [LOG] [--logs 3] [--shuffles 5] [--level 3]
                                              [--partial 3]

Planted logs: the share of rocks that each setting finds, and of what it names that is none; in text
whose phrases recur word for word, and in text where only their meaning does. `--level`: types that
are hard anywhere, in contexts that do not recur, so that only the test of contexts can leave them
out. `--partial`: hidden states of a part of the text alone, against windows. With LOG, a log of
real models with contexts: types that can be tested, rocks, how many of the rocks of one half of the
prompts are rocks of the other half, and what is found when losses are dealt out anew among the
occurrences of each type, so that no context matters.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np

import rocktok
from rocktok.analyses.detect import windows
from rocktok.analyses.detect.tested import replication
from rocktok.analyses.detect.windows import SKETCH_COLUMNS
from rocktok.engine.passes import Engine
from rocktok.engine.source import Source
from rocktok.hashing import halves
from rocktok.log.sequences import load_prompts
from tests import hidden_worlds, worlds
from tests.evaluation import Batch, Evaluation, batch_of, evaluate
from tests.hidden_worlds import HARD_ANYWHERE, Mix
from tests.planted import PlantedLog


@dataclass(frozen=True)
class Setting:
    """A similarity with its parameters; `before`: places between a token and the state compared."""

    similarity: str
    window: int
    gamma: float | Literal["auto"]
    before: int = 1

    def __str__(self) -> str:
        if self.similarity == "hidden":
            return f"hidden, state {'before' if self.before else 'of'} the place, γ {self.gamma}"
        return f"{self.similarity}, w {self.window}, γ {self.gamma}"

    def of(self, batch: Batch) -> Evaluation:
        """The tested rule under this setting."""
        with _state_before(self.before):
            return evaluate(batch, similarity=self.similarity, window=self.window, gamma=self.gamma)


@contextmanager
def _state_before(places: int) -> Iterator[None]:
    kept, windows.BEFORE = windows.BEFORE, places
    try:
        yield
    finally:
        windows.BEFORE = kept


SETTINGS = [
    *(Setting("surprisal", w, gamma) for w in (1, 2, 4, 8) for gamma in (0.3, 0.5, 0.7)),
    Setting("hidden", 8, "auto"),
    Setting("hidden", 8, 0.6),
    Setting("hidden", 8, "auto", before=0),
]

#: Prompts and rocks of the planted logs.
SIZES = [(60, 17), (200, 30)]


class Rows:
    """All rows of a log's kept text, in memory."""

    needs = (
        "token_id", "sequence_id", "position", "prompt", "loss_pre", "loss_post", *SKETCH_COLUMNS,
    )  # fmt: skip

    def __init__(self) -> None:
        self.batches: list[Batch] = []

    def update(self, batch: Batch) -> None:
        """Keep a batch."""
        self.batches.append({name: np.array(batch[name]) for name in self.needs})

    def merge(self, other: Rows) -> None:
        """Those of the next task."""
        self.batches += other.batches


def rows_of(path: str) -> Batch:
    """The first and the last scoring of a log's kept text as one batch."""
    log = rocktok.open(path)
    steps = log.complete_steps("fixed")
    rows = Rows()
    Engine(jobs=1).run(Source(log, "fixed", steps[0], steps[-1], load_prompts(log)), rows)
    return {name: np.concatenate([batch[name] for batch in rows.batches]) for name in rows.needs}


def planted(logs: int) -> None:
    """Recall and false rocks where phrases recur, and where their meanings do."""
    print("\nPlanted rocks: recall, and rocks named that are none, of how many\n")
    mix = Mix(meaning=1.0, token=1.0)
    kinds = {"words recur": None, "meanings recur": 1.0}
    made = {
        (kind, prompts): [
            (log, batch_of(log))
            for log in (
                hidden_worlds.recurring_meanings(seed, prompts, rocks, mix, noise)
                for seed in range(700_000, 700_000 + logs)
            )
        ]
        for kind, noise in kinds.items()
        for prompts, rocks in SIZES
    }
    print(
        "| setting | " + " | ".join(f"{kind}, {prompts} prompts" for kind, prompts in made) + " |"
    )
    print("|---" * (1 + len(made)) + "|")
    for setting in SETTINGS:
        cells = [
            recall_and_false([(log, setting.of(batch)) for log, batch in pairs])
            for pairs in made.values()
        ]
        print(f"| {setting} | " + " | ".join(cells) + " |", flush=True)


def recall_and_false(found: list[tuple[PlantedLog, Evaluation]]) -> str:
    """Mean share of the planted rocks that was found; how much of what was named is none."""
    recall, false, named = [], 0, 0
    for log, evaluation in found:
        real, rocks = {*log.kinds["common"], *log.kinds["rare"]}, set(evaluation.rocks)
        recall.append(len(rocks & real) / len(real))
        false, named = false + len(rocks - real), named + len(rocks)
    return f"{np.mean(recall):.2f}, {false} of {named}"


def level(logs: int) -> None:
    """Types that are hard anywhere: how many are named, and by how many contexts seem to recur."""
    print("\nHard anywhere, in no context that recurs (states of the type)\n")
    print("| setting | named | p_context ≤ 0.05 | ≤ 0.01 |")
    print("|---|---|---|---|")
    made = [
        HARD_ANYWHERE["states of the type"].sketched(seed)
        for seed in range(720_000, 720_000 + logs)
    ]
    batches = [batch_of(log) for log in made]
    for setting in SETTINGS:
        named, p = 0, []
        for log, batch in zip(made, batches, strict=True):
            found, decoys = setting.of(batch), log.kinds["decoy"]
            named += len({*found.rocks} & {*decoys})
            p.append(found.types.p_context[np.isin(found.types.hard.token_T, decoys)])
        p_T = np.concatenate(p)
        decoys_of_all = sum(len(log.kinds["decoy"]) for log in made)
        print(
            f"| {setting} | {named} of {decoys_of_all} | {share(p_T)} | {share(p_T, 0.01)} |",
            flush=True,
        )


#: Shares of the sequences that have contexts.
SHARES = (1.0, 0.9, 0.75, 0.5, 0.35, 0.25, 0.1)


def partial(logs: int) -> None:
    """Recall and false rocks where a part of the sequences has contexts, and of windows."""
    print("\nContexts of a part of the sequences: recall, rocks that are none of how many\n")
    print("| text | " + " | ".join(("windows", *(f"{100 * s:g}%" for s in SHARES))) + " |")
    print("|---" * (2 + len(SHARES)) + "|")
    mix = Mix(meaning=1.0, token=1.0)
    for kind, noise in {"words recur": None, "meanings recur": 1.0}.items():
        for prompts, rocks in SIZES:
            cells: list[list[tuple[PlantedLog, Evaluation]]] = [[] for _ in (0, *SHARES)]
            for seed in range(710_000, 710_000 + logs):
                log = hidden_worlds.recurring_meanings(seed, prompts, rocks, mix, noise)
                batch = batch_of(log)
                cells[0].append((log, evaluate(batch, similarity="surprisal")))
                _, index_N = np.unique(batch["sequence_id"], return_inverse=True)
                at_N = np.random.default_rng(seed).random(index_N.max() + 1)[index_N]
                for cell, some in zip(cells[1:], SHARES, strict=True):
                    part = {**batch, "has_context": at_N <= some}
                    cell.append((log, evaluate(part, similarity="hidden")))
            row = " | ".join(map(recall_and_false, cells))
            print(f"| {kind}, {prompts} prompts | {row} |", flush=True)


def real(path: str, shuffles: int) -> None:
    """What each setting finds in a log of real models, in its halves, and without contexts."""
    batch = rows_of(path)
    print(f"\n{path}: {len(batch['token_id']):,} positions\n")
    print(
        "| setting | types hard enough | rocks | p_context ≤ 0.05 | rocks of each half | "
        "of both | those of one half hard in the other | shuffled: rocks | p_context ≤ 0.05 |"
    )
    print("|---" * 9 + "|")
    half_N = halves(batch["prompt"], 0)
    parts = [{name: x[half_N == half] for name, x in batch.items()} for half in (0, 1)]
    rng = np.random.default_rng(0)
    dealt = []
    for _ in range(shuffles):
        pre_N, post_N = worlds.shuffled_within_types(
            rng, batch["token_id"], batch["loss_pre"], batch["loss_post"]
        )
        dealt.append({**batch, "loss_pre": pre_N, "loss_post": post_N})
    for setting in SETTINGS:
        found = setting.of(batch)
        p_T = found.types.p_context
        one, other = (setting.of(part) for part in parts)
        there = [
            replication(np.array(first.rocks, dtype=np.int64), second.types.hard)
            for first, second in ((one, other), (other, one))
        ]
        null = [setting.of(shuffled) for shuffled in dealt]
        null_p = np.concatenate([each.types.p_context for each in null])
        print(
            f"| {setting} | {np.isfinite(p_T).sum()} | {len(found.rocks)} | {share(p_T)} | "
            f"{len(one.rocks)}, {len(other.rocks)} | {len({*one.rocks} & {*other.rocks})} | "
            f"{sum(each.hard for each in there)} of {sum(each.held for each in there)} | "
            f"{sum(len(each.rocks) for each in null) / max(1, len(null)):.1f} | {share(null_p)} |",
            flush=True,
        )


def share(p_T: np.ndarray, most: float = 0.05) -> str:
    """How many of the measured are at most so large."""
    measured = p_T[np.isfinite(p_T)]
    return f"{(measured <= most).sum()} of {len(measured)}"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("log", nargs="?")
    parser.add_argument("--logs", type=int, default=3, help="Planted logs of each size.")
    parser.add_argument("--shuffles", type=int, default=5, help="Logs with losses dealt out anew.")
    parser.add_argument("--level", type=int, default=0, help="Logs of types hard anywhere.")
    parser.add_argument("--partial", type=int, default=0, help="Logs with contexts for a part.")
    options = parser.parse_args()
    if options.log:
        real(options.log, options.shuffles)
    if options.logs:
        planted(options.logs)
    if options.level:
        level(options.level)
    if options.partial:
        partial(options.partial)


if __name__ == "__main__":
    main()
