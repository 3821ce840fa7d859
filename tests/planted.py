"""Logs of which we know what `detect` should find: planted rocks, or nothing at all.

Text is made of units. A unit is a chunk of background (independent draws from a Zipf law) or a
phrase: a template of 12 to 18 tokens, some of them replaced by noise at each use. A prompt has a
first rollout; each further rollout copies a unit of it with probability `share`, and else has a
fresh one. What is copied is copied with its difficulty, as a loss is a function of the prefix.

Losses are log-normal at both steps and correlated between them; occurrences marked as hard have a
high loss at both steps, learned ones at the first only.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

Array = np.ndarray[Any, Any]
Unit = tuple[Array, Array]
"""Tokens and marks of a unit."""

BACKGROUND = 4000
"""Types of the background: ids 0 … 3,999, the lower the more frequent."""

PLAIN, PHRASE, HARD, LEARNED, DECOY = range(5)
"""Marks: background, ordinary place of a phrase, hard at both steps, hard at first, a decoy."""


@dataclass
class Text:
    """Sequences of units; all arrays have one element per position.

    `place` numbers the places in the text, equal for the copies of a place in the rollouts of its
    prompt.
    """

    token: Array
    mark: Array
    place: Array
    sequence: Array
    prompt: Array
    position: Array


@dataclass
class PlantedLog:
    """A log in memory: the rows of `fixed/`, the sequences, and what was planted.

    `context`: (N, 32) uint8, sketches of the positions in their order, if there are any.
    """

    rows: pd.DataFrame
    sequences: pd.DataFrame
    kinds: dict[str, list[int]]
    context: Array | None = None

    def write(self, root: Path) -> Path:
        """The log as anybody can write it, without rocktok."""
        for name, frame in (("fixed", self.rows), ("sequences", self.sequences)):
            (root / name).mkdir(parents=True)
            frame.to_parquet(root / name / "all.parquet", index=False)
        if self.context is not None:
            first = self.rows[self.rows["step"] == self.rows["step"].min()]
            keys = first[["step", "sequence_id", "position"]]
            rows = pa.Table.from_pandas(keys, preserve_index=False)
            values = pa.array([row.tobytes() for row in self.context], pa.binary(32))
            (root / "contexts").mkdir()
            pq.write_table(rows.append_column("context", values), root / "contexts/all.parquet")
        return root


# --- text --------------------------------------------------------------------------------------


#: Cumulative weights of the background: P(u) ∝ 1/(u + 2.7), Zipf–Mandelbrot.
_WEIGHTS = np.cumsum(1 / (np.arange(BACKGROUND) + 2.7))


def zipf(rng: np.random.Generator, size: int) -> Array:
    """Background tokens."""
    return np.searchsorted(_WEIGHTS, rng.random(size) * _WEIGHTS[-1])


def chunks(rng: np.random.Generator, number: int, length: int = 15) -> list[Unit]:
    """Units of background."""
    marks = np.full(length, PLAIN)
    return [(tokens, marks) for tokens in zipf(rng, number * length).reshape(number, length)]


def template(rng: np.random.Generator, length: int) -> Unit:
    """A phrase, as it is used again and again."""
    return zipf(rng, length), np.full(length, PHRASE)


def put(rng: np.random.Generator, unit: Unit, token: int, mark: int, times: int) -> Unit:
    """The phrase with `token` at so many of its inner places."""
    tokens, marks = unit[0].copy(), unit[1].copy()
    at = rng.choice(np.arange(2, len(tokens) - 2), size=times, replace=False)
    tokens[at], marks[at] = token, mark
    return tokens, marks


def use(rng: np.random.Generator, unit: Unit, noise: float, stays_hard: float = 1.0) -> Unit:
    """One use of a phrase: ordinary places are replaced with probability `noise`."""
    tokens, marks = unit[0].copy(), unit[1]
    replaced = (rng.random(len(tokens)) < noise) & (marks == PHRASE)
    tokens[replaced] = zipf(rng, int(replaced.sum()))
    if rng.random() >= stays_hard:
        marks = np.where(marks == HARD, PHRASE, marks)
    return tokens, marks


def plan(rng: np.random.Generator, prompts: int, rollouts: int, slots: int, share: float) -> Array:
    """Number of the unit in each slot, (prompts, rollouts, slots): equal where it is a copy."""
    fresh = rng.random((prompts, rollouts, slots)) >= share
    fresh[:, 0] = True
    numbers = np.cumsum(fresh).reshape(fresh.shape) - 1
    return np.where(fresh, numbers, numbers[:, :1])


def lay_out(numbers: Array, units: list[Unit], endings: list[Unit] | None = None) -> Text:
    """The text that `plan` laid out, each sequence closed by an ending of its own."""
    if endings is not None:
        prompts, rollouts, _ = numbers.shape
        own = len(units) + np.arange(prompts * rollouts).reshape(prompts, rollouts, 1)
        numbers, units = np.concatenate([numbers, own], axis=2), [*units, *endings]
    token_F, mark_F = (np.concatenate(column) for column in zip(*units, strict=True))
    return lay_out_flat(numbers, token_F, mark_F, np.array([len(tokens) for tokens, _ in units]))


def lay_out_flat(numbers: Array, token_F: Array, mark_F: Array, size_U: Array) -> Text:
    """The same of units one after another, with the size of each; every one is in the text."""
    _, rollouts, slots = numbers.shape
    start_U = np.cumsum(size_U) - size_U
    size_K = size_U[numbers.ravel()]
    start_K = np.cumsum(size_K) - size_K
    place = np.arange(size_K.sum()) + np.repeat(start_U[numbers.ravel()] - start_K, size_K)
    lengths = size_K.reshape(-1, slots).sum(axis=1)
    sequence = np.repeat(np.arange(len(lengths)), lengths)
    position = np.arange(len(place)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return Text(token_F[place], mark_F[place], place, sequence, sequence // rollouts, position)


def scatter(
    rng: np.random.Generator, text: Text, types: dict[int, int], over: tuple[int, ...], mark: int
) -> dict[int, Array]:
    """Write types over places marked as one of `over`, with all their copies, and mark them anew.

    `types` says how many positions each should have at least; the places are drawn without regard
    to what stands around them. Returns the positions of each.
    """
    copies = np.bincount(text.place)
    free = np.unique(text.place[np.isin(text.mark, over)])
    rng.shuffle(free)
    type_of_place = np.full(len(copies), -1)
    at = 0
    for token, wanted in types.items():
        have = 0
        while have < wanted:
            type_of_place[free[at]] = token
            have += copies[free[at]]
            at += 1
    new = type_of_place[text.place]
    text.token[new >= 0] = new[new >= 0]
    text.mark[new >= 0] = mark
    return {token: np.flatnonzero(new == token) for token in types}


def losses(rng: np.random.Generator, text: Text, hard: Array) -> tuple[Array, Array]:
    """Loss before and after, float32 nats.

    Ordinary: log-normal with median 0.08 before and 0.05 after; the logarithms correlate by 0.5 (a
    hard prefix mostly stays hard), and the copies of a place agree nearly. Hard: around `hard`
    before, 0.9 of that after. Learned: hard before, ordinary after.
    """

    def normal() -> Array:
        of_place = rng.standard_normal(text.place.max() + 1)[text.place]
        return np.sqrt(0.9) * of_place + np.sqrt(0.1) * rng.standard_normal(len(text.place))

    both, one, other = normal(), normal(), normal()
    before = np.log(0.08) + 1.3 * (np.sqrt(0.5) * both + np.sqrt(0.5) * one)
    after = np.log(0.05) + 1.3 * (np.sqrt(0.5) * both + np.sqrt(0.5) * other)
    high = np.log(hard) + 0.3 * both
    before = np.where(np.isin(text.mark, (HARD, LEARNED)), high + 0.1 * one, before)
    after = np.where(text.mark == HARD, high + np.log(0.9) + 0.1 * other, after)
    return np.exp(before).astype(np.float32), np.exp(after).astype(np.float32)


def as_log(text: Text, before: Array, after: Array, kinds: dict[str, list[int]]) -> PlantedLog:
    """The log of a text that was scored at steps 50 and 1,000."""
    rows = pd.DataFrame(
        {
            "step": np.repeat(np.array([50, 1000], dtype=np.int32), len(text.token)),
            "sequence_id": np.tile(text.sequence.astype(np.int64), 2),
            "position": np.tile(text.position.astype(np.int32), 2),
            "token_id": np.tile(text.token.astype(np.int32), 2),
            "loss": np.concatenate([before, after]),
        }
    )
    numbers, first = np.unique(text.sequence, return_index=True)
    sequences = pd.DataFrame(
        {
            "sequence_id": numbers.astype(np.int64),
            "step": np.zeros(len(numbers), dtype=np.int32),
            "num_tokens": np.bincount(text.sequence).astype(np.int32),
            "prompt_id": [f"prompt {p}" for p in text.prompt[first]],
        }
    )
    return PlantedLog(rows, sequences, kinds)


# --- planted rocks -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Level:
    """How hard the rocks are to find.

    Attributes:
        noise: share of a phrase's ordinary tokens that are replaced at each use.
        stays_hard: share of the uses of a phrase in which its rock is hard.
        rare_uses: uses of a rare rock's phrase, from and to; the copies in other rollouts of a
            prompt make twice as many positions of them.
        spikes: share of a decoy's occurrences that are hard.
    """

    noise: float
    stays_hard: float
    rare_uses: tuple[int, int]
    spikes: float


LEVELS = {
    "easy": Level(noise=0.05, stays_hard=1.0, rare_uses=(10, 20), spikes=0.2),
    "hard": Level(noise=0.12, stays_hard=0.8, rare_uses=(10, 20), spikes=0.25),
    "beyond": Level(noise=0.25, stays_hard=0.6, rare_uses=(5, 12), spikes=0.4),
}

ROCKS = 100
"""Rocks planted in a log: the default of `top_k`, so the default options can be just right."""


def planted_log(
    seed: int, level: str, prompts: int = 200, rollouts: int = 4, slots: int = 10
) -> PlantedLog:
    """100 rocks, and 60 types that a score could take for rocks, in 130,000 positions.

    Rocks: hard at both steps in recurring contexts. `common`: 3 types that make up 2%, 3% and 5% of
    all positions, four to a phrase, six phrases each. `ending`: 3 types in a phrase that ends every
    sequence. `rare`: 94 types, each with a phrase of its own. For four occurrences of a rock in its
    phrases there is one elsewhere, with ordinary loss.

    Not rocks: `decoy`, 10 types that each make up 0.4% to 1.6% of the text and are hard in contexts
    that have nothing in common; `extreme`, 30 types that occur 3 or 4 times, at 10 nats; `learned`,
    20 types in phrases, hard at the first step only. And the 4,000 types of the background.
    """
    rng = np.random.default_rng([seed, *level.encode()])
    how = LEVELS[level]
    ids = iter(range(BACKGROUND, BACKGROUND + 1000))
    sizes = {
        "common": 3,
        "ending": 3,
        "rare": ROCKS - 6,
        "decoy": 10,
        "extreme": 30,
        "learned": 20,
    }
    kinds = {kind: [next(ids) for _ in range(number)] for kind, number in sizes.items()}

    numbers = plan(rng, prompts, rollouts, slots, share=0.7)
    total = numbers.size * 15 + prompts * rollouts * 12  # positions, about
    units: list[Unit] = []
    for token, part in zip(kinds["common"], (0.02, 0.03, 0.05), strict=True):
        phrases = [
            put(rng, template(rng, int(rng.integers(14, 19))), token, HARD, 4) for _ in range(6)
        ]
        uses = round(0.8 * part * total / 4 * (numbers.max() + 1) / numbers.size)
        units += [use(rng, phrases[k % 6], how.noise, how.stays_hard) for k in range(uses)]
    for kind, mark in (("rare", HARD), ("learned", LEARNED)):
        for token in kinds[kind]:
            phrase = put(rng, template(rng, int(rng.integers(12, 19))), token, mark, 1)
            uses = int(rng.integers(*how.rare_uses, endpoint=True))
            units += [use(rng, phrase, how.noise, how.stays_hard) for _ in range(uses)]
    units += chunks(rng, numbers.max() + 1 - len(units))
    assert len(units) == numbers.max() + 1
    closing = template(rng, 12)
    for token in kinds["ending"]:
        while token not in closing[0]:
            at = rng.integers(2, 10)
            if closing[1][at] == PHRASE:
                closing[0][at], closing[1][at] = token, HARD
    endings = [use(rng, closing, how.noise, how.stays_hard) for _ in range(prompts * rollouts)]
    text = lay_out(numbers, [units[k] for k in rng.permutation(len(units))], endings)

    decoys = zip(kinds["decoy"], np.geomspace(0.004, 0.016, 10), strict=True)
    wanted = {token: round(share * len(text.token)) for token, share in decoys}
    spikes = rng.random(text.place.max() + 1)[text.place] < how.spikes
    for at in scatter(rng, text, wanted, (PLAIN, PHRASE), DECOY).values():
        text.mark[at[spikes[at]]] = HARD
    wanted = {token: int(rng.integers(3, 5)) for token in kinds["extreme"]}
    scatter(rng, text, wanted, (PLAIN, PHRASE), HARD)
    held = np.bincount(text.token)
    wanted = {
        token: max(1, round(held[token] / 4))
        for kind in ("common", "ending", "rare", "learned")
        for token in kinds[kind]
    }
    scatter(rng, text, wanted, (PLAIN,), DECOY)

    nats = np.ones(BACKGROUND + 1000)
    for kind in ("common", "ending", "rare"):
        nats[kinds[kind]] = rng.uniform(1.0, 2.0, len(kinds[kind]))
    nats[kinds["decoy"]], nats[kinds["extreme"]], nats[kinds["learned"]] = 2.5, 10.0, 2.0
    before, after = losses(rng, text, nats[text.token])
    return as_log(text, before, after, kinds)


# --- nothing at all ----------------------------------------------------------------------------

PERSISTENT = {2: 60, 5: 40, 20: 20, 100: 8}
"""Persistent occurrences of a type of a null log → number of such types."""


def null_log(
    seed: int,
    *,
    share: float = 0.0,
    phrases: int = 0,
    prompts: int = 100,
    rollouts: int = 4,
    slots: int = 8,
) -> PlantedLog:
    """A log in which where a type is hard has nothing to do with the text around it.

    Types with exactly 2, 5, 20 and 100 persistent occurrences (`kinds`), each written over places
    drawn at random, three times as many as are hard. `share` is the share of a rollout that is
    copied from the prompt's first, with what is hard in it. Half the text is uses of so many
    `phrases`, and every sequence ends with the first of them, so that windows do recur: for every
    type alike. 50,000 positions; in `frequent` two more types, 3% of all positions each, a tenth of
    them hard.
    """
    rng = np.random.default_rng([seed, round(share * 10), phrases])
    numbers = plan(rng, prompts, rollouts, slots, share)
    pool = [template(rng, int(rng.integers(12, 19))) for _ in range(phrases)]
    units: list[Unit] = []
    for _ in range(numbers.max() + 1):
        if phrases and rng.random() < 0.5:
            units.append(use(rng, pool[rng.integers(phrases)], 0.1))
        else:
            units += chunks(rng, 1)
    endings = [use(rng, pool[0], 0.1) for _ in range(prompts * rollouts)] if phrases else None
    text = lay_out(numbers, units, endings)

    ids = iter(range(BACKGROUND, BACKGROUND + 1000))
    kinds = {str(n): [next(ids) for _ in range(types)] for n, types in PERSISTENT.items()}
    kinds["frequent"] = [next(ids), next(ids)]
    hard = {token: n for n in PERSISTENT for token in kinds[str(n)]}
    wanted = {token: 3 * n for token, n in hard.items()}
    for token in kinds["frequent"]:
        wanted[token] = round(0.03 * len(text.token))
        hard[token] = wanted[token] // 10
    for token, at in scatter(rng, text, wanted, (PLAIN, PHRASE), DECOY).items():
        # Copies of a place are hard together, the last place as far as is needed for the number.
        order = np.lexsort(
            [rng.random(len(at)), rng.permutation(text.place.max() + 1)[text.place[at]]]
        )
        text.mark[at[order[: hard[token]]]] = HARD
    before, _ = losses(rng, text, np.full(len(text.token), 3.0))
    # What is not marked as hard is never hard twice: only the types in question are persistent.
    after = np.where(text.mark == HARD, before, 0.004 / before).astype(np.float32)
    low = text.mark == DECOY
    before[low], after[low] = 1e-3, 1e-3
    return as_log(text, before, after, kinds)


# --- does the loss single contexts out ---------------------------------------------------------


def singled_log(seed: int, *, by_context: bool, types: int = 40, prompts: int = 120) -> PlantedLog:
    """Types, each in a phrase of its own and in twelve times as many places anywhere.

    `by_context`: the phrase's uses are hard, but one in five; nothing else is. Otherwise the same
    text, and as many occurrences of each type hard, drawn at random among its prompts' places.
    """
    rng = np.random.default_rng([seed, types])
    ids = list(range(BACKGROUND, BACKGROUND + types))
    uses = 2 * prompts // 8
    numbers = plan(rng, prompts, rollouts=2, slots=2 * types // 5 + 12, share=0.3)
    units: list[Unit] = []
    for token in ids:
        phrase = put(rng, template(rng, 14), token, HARD, 1)
        units += [use(rng, phrase, 0.05, stays_hard=0.8) for _ in range(uses)]
    units += chunks(rng, numbers.max() + 1 - len(units))
    assert len(units) == numbers.max() + 1
    text = lay_out(numbers, [units[k] for k in rng.permutation(len(units))])
    held = np.bincount(text.token, minlength=BACKGROUND + types)
    scatter(rng, text, {token: 12 * int(held[token]) for token in ids}, (PLAIN,), DECOY)
    if not by_context:
        for token in ids:
            at = np.flatnonzero(text.token == token)
            wanted = int((text.mark[at] == HARD).sum())
            order = np.argsort(rng.permutation(text.place.max() + 1)[text.place[at]])
            text.mark[at] = DECOY
            text.mark[at[order[:wanted]]] = HARD
    before, after = losses(rng, text, np.full(len(text.token), 2.0))
    # Nothing else is hard at both steps, by chance or otherwise.
    plain = text.mark != HARD
    before[plain] = np.minimum(before[plain], np.float32(0.5))
    after[plain] = np.minimum(after[plain], np.float32(0.5))
    return as_log(text, before, after, {"planted": ids})
