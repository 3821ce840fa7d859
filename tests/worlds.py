"""Worlds in which we know which rocks there are: none, or those that were planted.

In a null world where a position is hard depends on its prompt, its place in the text, its
neighbours or nothing, but never on its token. All are made of the units of planted.py. Text has
topics (a part of each topic's vocabulary is its own), phrases that recur, and rollouts that share
text with their prompt's first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from tests import planted
from tests.paths import SAMPLE
from tests.planted import Array, PlantedLog, Text, Unit

COMMON = 100
"""The most frequent types, which all topics use alike."""


@dataclass(frozen=True)
class Shape:
    """How much text, and what it is made of.

    `topics`: a prompt is of one; `mixed`: each of its units is of one, which is its mark;
    `phrases`: of each topic, half of its units are uses of one; `share`: of a rollout's units that
    copy the first one's.
    """

    prompts: int = 100
    rollouts: int = 4
    slots: int = 8
    share: float = 0.5
    topics: int = 5
    phrases: int = 12
    mixed: bool = False


def text(rng: np.random.Generator, shape: Shape) -> tuple[Text, Array]:
    """The text, and the topic of each prompt."""
    numbers = planted.plan(rng, shape.prompts, shape.rollouts, shape.slots, shape.share)
    topic_of_prompt = rng.integers(0, shape.topics, shape.prompts)
    owner = np.zeros(numbers.max() + 1, dtype=int)
    owner[numbers.reshape(shape.prompts, -1)] = np.arange(shape.prompts)[:, None]
    words = np.array([
        np.concatenate([np.arange(COMMON), COMMON + rng.permutation(planted.BACKGROUND - COMMON)])
        for _ in range(shape.topics)
    ])  # fmt: skip
    topic_U = topic_of_prompt[owner]
    if shape.mixed:
        topic_U = rng.integers(0, shape.topics, len(owner))
    size_U = np.full(len(owner), 15)
    phrase_U = np.zeros(len(owner), dtype=int)
    recurs_U = np.zeros(len(owner), dtype=bool)
    size_L = np.zeros(1, dtype=int)
    if shape.phrases:
        recurs_U = rng.random(len(owner)) < 0.5
        phrase_U = topic_U * shape.phrases + rng.integers(0, shape.phrases, len(owner))
        size_L = rng.integers(12, 19, shape.topics * shape.phrases)
        size_U[recurs_U] = size_L[phrase_U[recurs_U]]
    phrases = planted.zipf(rng, int(size_L.sum()))
    recurs_F, topic_F = np.repeat(recurs_U, size_U), np.repeat(topic_U, size_U)
    token_F = planted.zipf(rng, len(topic_F))
    # One in ten places of a phrase is replaced at each use.
    kept = np.flatnonzero(recurs_F & (rng.random(len(topic_F)) >= 0.1))
    start_F = np.repeat(
        (np.cumsum(size_L) - size_L)[phrase_U] - (np.cumsum(size_U) - size_U), size_U
    )
    token_F[kept] = phrases[start_F[kept] + kept]
    mark_F = topic_F if shape.mixed else np.where(recurs_F, planted.PHRASE, planted.PLAIN)
    return planted.lay_out_flat(numbers, words[topic_F, token_F], mark_F, size_U), topic_of_prompt


def normals(rng: np.random.Generator, text: Text, shared: float = 0.9) -> Array:
    """Standard normal for each position, nearly the same for the copies of a place."""
    of_place = rng.standard_normal(text.place.max() + 1)[text.place]
    own = rng.standard_normal(len(text.place))
    return np.sqrt(shared) * of_place + np.sqrt(1 - shared) * own


def null_losses(
    rng: np.random.Generator,
    text: Text,
    *,
    level: Array | float = 0.0,
    prompt_sd: float = 0.5,
    correlation: float = 0.5,
) -> tuple[Array, Array]:
    """Loss before and after: log-normal, with a level of each prompt, correlated between steps.

    `level`: added to the logarithm of both.
    """
    of_prompt = prompt_sd * rng.standard_normal(text.prompt.max() + 1)[text.prompt]
    both, one, other = (normals(rng, text) for _ in range(3))
    a, b = np.sqrt(correlation), np.sqrt(1 - correlation)
    before = np.log(0.08) + level + of_prompt + 1.3 * (a * both + b * one)
    after = np.log(0.05) + level + of_prompt + 1.3 * (a * both + b * other)
    return np.exp(before).astype(np.float32), np.exp(after).astype(np.float32)


def relative_position(text: Text) -> Array:
    """0 at the beginning of each sequence, 1 at its end."""
    length = np.bincount(text.sequence)[text.sequence]
    return text.position / np.maximum(length - 1, 1)


def runs(rng: np.random.Generator, text: Text, share: float = 0.1, height: float = 2.0) -> Array:
    """What stretches of 5 to 10 tokens have more of: `height`, for a share of them."""
    places = int(text.place.max()) + 1
    lengths = rng.integers(5, 11, places)
    stretch = np.repeat(np.arange(places), lengths)[:places]
    return np.where(rng.random(places) < share, height, 0.0)[stretch][text.place]


def tie_types_to_places(rng: np.random.Generator, text: Text) -> None:
    """Types that stand in one part of their sequences only, some of them in text that recurs.

    Four types for each tenth, anywhere in it; and every sequence begins with one of three openings
    of 8 tokens and ends with one of three closings of 10, half of whose tokens stand nowhere else.
    """
    types = iter(range(planted.BACKGROUND, planted.BACKGROUND + 100))
    tenth = np.minimum(9, (10 * relative_position(text)).astype(int))
    for tied in range(10):
        free = np.flatnonzero(tenth == tied)
        for _ in range(4):
            at = rng.choice(free, size=max(20, len(free) // 60), replace=False)
            text.token[at] = next(types)
    last = np.flatnonzero(np.append(text.sequence[1:] != text.sequence[:-1], True))
    first = np.append(0, last[:-1] + 1)
    for start, length in ((first, 8), (last - 9, 10)):
        pool = planted.zipf(rng, 3 * length).reshape(3, length)
        pool[:, ::2] = [[next(types) for _ in range(0, length, 2)] for _ in pool]
        tokens = pool[rng.integers(0, 3, len(start))]
        noise = rng.random(tokens.shape) < 0.1
        tokens[noise] = planted.zipf(rng, int(noise.sum()))
        text.token[start[:, None] + np.arange(length)] = tokens


# --- null worlds -------------------------------------------------------------------------------


def _plain(seed: int, shape: Shape, **how: float) -> PlantedLog:
    rng = np.random.default_rng([seed, 1])
    words, _ = text(rng, shape)
    return planted.as_log(words, *null_losses(rng, words, **how), {})


def _sloped(seed: int, slope: float) -> PlantedLog:
    """Losses that rise or fall fivefold along the text, with types tied to places."""
    rng = np.random.default_rng([seed, 2])
    words, _ = text(rng, Shape())
    tie_types_to_places(rng, words)
    level = slope * np.log(5) * relative_position(words)
    return planted.as_log(words, *null_losses(rng, words, level=level), {})


def _one_large_prompt(seed: int) -> PlantedLog:
    """Of 100 prompts the first has 30% of all positions: 172 sequences of some 570."""
    rng = np.random.default_rng([seed, 3])
    words, _ = text(rng, Shape(prompts=142))
    # 43 prompts of one topic become one: its rollouts share less than those of others.
    words.prompt = np.maximum(words.prompt - 42, 0)
    return planted.as_log(words, *null_losses(rng, words), {})


def _domains(seed: int) -> PlantedLog:
    """Three domains, whose own words are many and whose losses are unlike: tenfold."""
    rng = np.random.default_rng([seed, 4])
    words, domain = text(rng, Shape(prompts=300, topics=3, slots=5))
    level = np.log([0.3, 1.0, 3.0])[domain[words.prompt]]
    return planted.as_log(words, *null_losses(rng, words, level=level), {})


def topics_within_prompts(seed: int, least: float = 0.3, most: float = 3.0) -> PlantedLog:
    """Three topics in every prompt, with words of their own and losses that are unlike.

    Not among the null worlds: the tested rule does not hold here, and its documentation says so.
    """
    rng = np.random.default_rng([seed, 7])
    words, _ = text(rng, Shape(topics=3, mixed=True))
    level = np.linspace(np.log(least), np.log(most), 3)[words.mark.astype(int)]
    return planted.as_log(words, *null_losses(rng, words, level=level), {})


def _runs(seed: int) -> PlantedLog:
    rng = np.random.default_rng([seed, 5])
    words, _ = text(rng, Shape())
    return planted.as_log(words, *null_losses(rng, words, level=runs(rng, words)), {})


@lru_cache(maxsize=1)
def sample() -> tuple[Text, Array, Array]:
    """Text of the sample's fixed set, and its losses at the first and the last step."""
    import rocktok
    from rocktok.engine.passes import Engine
    from rocktok.engine.source import Source
    from rocktok.log.sequences import load_prompts

    log = rocktok.open(str(SAMPLE))
    steps = log.complete_steps("fixed")
    source = Source(log, "fixed", steps[0], steps[-1], load_prompts(log))
    rows = _Rows()
    Engine(jobs=1).run(source, rows)
    columns = {name: np.concatenate([batch[name] for batch in rows.batches]) for name in rows.needs}
    token = columns["token_id"]
    prompt = np.unique(columns["prompt"], return_inverse=True)[1]
    words = Text(
        token,
        np.zeros(len(token)),
        np.arange(len(token)),
        columns["sequence_id"],
        prompt,
        columns["position"],
    )
    return words, columns["loss_pre"], columns["loss_post"]


class _Rows:
    needs = ("token_id", "sequence_id", "position", "prompt", "loss_pre", "loss_post")

    def __init__(self) -> None:
        self.batches: list[dict[str, Array]] = []

    def update(self, batch: dict[str, Array]) -> None:
        self.batches.append({name: np.array(batch[name]) for name in self.needs})

    def merge(self, other: _Rows) -> None:
        self.batches += other.batches


def _shuffled_sample(seed: int, persistent: bool) -> PlantedLog:
    """The sample's text, its losses dealt out anew: with both steps together, or each apart."""
    rng = np.random.default_rng([seed, 6])
    words, before, after = sample()
    order = rng.permutation(len(before))
    other = order if persistent else rng.permutation(len(before))
    return planted.as_log(words, before[order], after[other], {})


@dataclass(frozen=True)
class World:
    """A maker of logs without rocks, and the options and the cap that it is looked at with."""

    make: Callable[[int], PlantedLog]
    quantile: float = 0.8
    most: int = 4096


NULL_WORLDS = {
    "topics, phrases, shared rollouts": World(lambda seed: _plain(seed, Shape())),
    "losses rise fivefold": World(lambda seed: _sloped(seed, 1.0)),
    "losses fall fivefold": World(lambda seed: _sloped(seed, -1.0)),
    "500 × 4 rollouts": World(lambda seed: _plain(seed, Shape(500, slots=5))),
    "1,000 × 4 rollouts": World(lambda seed: _plain(seed, Shape(1000, slots=4))),
    "one prompt with 30%": World(_one_large_prompt),
    "1 × 200 rollouts": World(lambda seed: _plain(seed, Shape(1, 200, topics=1))),
    "16 × 30 rollouts": World(lambda seed: _plain(seed, Shape(16, 30))),
    "90% shared text": World(lambda seed: _plain(seed, Shape(share=0.9))),
    "three domains": World(_domains),
    "three domains, in 64 groups": World(_domains, most=64),
    "hard runs of 5 to 10 tokens": World(_runs),
    "steps independent": World(lambda seed: _plain(seed, Shape(), correlation=0.0, prompt_sd=0.0)),
    "12 prompts": World(lambda seed: _plain(seed, Shape(12, slots=20))),
    "20 prompts": World(lambda seed: _plain(seed, Shape(20, slots=20))),
    "τ at the 0.9 quantile": World(lambda seed: _plain(seed, Shape()), quantile=0.9),
    "τ at the 0.95 quantile": World(lambda seed: _plain(seed, Shape()), quantile=0.95),
    "sample shuffled, persistent": World(lambda seed: _shuffled_sample(seed, True)),
    "sample shuffled, nothing persists": World(lambda seed: _shuffled_sample(seed, False)),
}


def shuffled_within_types(
    rng: np.random.Generator, token_N: Array, *losses: Array
) -> tuple[Array, ...]:
    """Losses dealt out anew among the occurrences of each type, those of one position together."""
    at = np.argsort(token_N, kind="stable")
    drawn = np.lexsort((rng.random(len(token_N)), token_N))
    dealt = tuple(np.empty_like(loss_N) for loss_N in losses)
    for new_N, loss_N in zip(dealt, losses, strict=True):
        new_N[at] = loss_N[drawn]
    return dealt


# --- planted rocks -----------------------------------------------------------------------------


def planted_rocks(seed: int, prompts: int, rocks: int) -> PlantedLog:
    """A log of `rocks_in_text`."""
    return rocks_in_text(np.random.default_rng([seed, prompts, rocks, 7]), prompts, rocks)[0]


def rocks_in_text(
    rng: np.random.Generator, prompts: int, rocks: int, noise: float | None = None
) -> tuple[PlantedLog, Text, Array]:
    """Hard rocks (`planted.LEVELS`), so many, and as many types as could be taken for them.

    `common`: one type in ten of the rocks (at most 3), 2% of all positions, in six phrases of its
    own; `rare`: the others, each in a phrase with 10 to 20 uses. `decoy`: hard in a quarter of
    their occurrences, anywhere; `learned`: in phrases, hard at the first step only. `noise`: share
    of a phrase's ordinary tokens that are drawn anew at each use.

    Returns the log, its text, and of each position the phrase that it is in, or −1.
    """
    how = planted.LEVELS["hard"]
    noise = how.noise if noise is None else noise
    ids = iter(range(planted.BACKGROUND, planted.BACKGROUND + 1000))
    common = min(3, rocks // 10)
    sizes = {"common": common, "rare": rocks - common, "decoy": 10, "learned": 10}
    kinds = {kind: [next(ids) for _ in range(number)] for kind, number in sizes.items()}
    # Three fifths of the units are background.
    slots = max(10, round(2.5 * 15 * (rocks + 10) / (prompts * 1.9)))
    numbers = planted.plan(rng, prompts, 4, slots, share=0.7)
    units: list[Unit] = []
    phrase_of: list[int] = []
    for token in kinds["common"]:
        first = max(phrase_of, default=-1) + 1
        phrases = [
            planted.put(rng, planted.template(rng, 16), token, planted.HARD, 4) for _ in range(6)
        ]
        uses = round(0.02 * 15 / 4 * (numbers.max() + 1))
        units += [planted.use(rng, phrases[k % 6], noise, how.stays_hard) for k in range(uses)]
        phrase_of += [first + k % 6 for k in range(uses)]
    for kind, mark in (("rare", planted.HARD), ("learned", planted.LEARNED)):
        for token in kinds[kind]:
            words = planted.template(rng, int(rng.integers(12, 19)))
            phrase = planted.put(rng, words, token, mark, 1)
            uses = int(rng.integers(*how.rare_uses, endpoint=True))
            units += [planted.use(rng, phrase, noise, how.stays_hard) for _ in range(uses)]
            phrase_of += [max(phrase_of, default=-1) + 1] * uses
    units += planted.chunks(rng, numbers.max() + 1 - len(units))
    phrase_of += [-1] * (len(units) - len(phrase_of))
    order = rng.permutation(len(units)).tolist()
    words = planted.lay_out(numbers, [units[k] for k in order])
    sizes = [len(units[k][0]) for k in order]
    phrase_N = np.repeat(np.array(phrase_of)[order], sizes)[words.place]
    wanted = {
        token: round(share * len(words.token))
        for token, share in zip(kinds["decoy"], np.geomspace(0.004, 0.016, 10), strict=True)
    }
    spikes = rng.random(words.place.max() + 1)[words.place] < how.spikes
    over = (planted.PLAIN, planted.PHRASE)
    for at in planted.scatter(rng, words, wanted, over, planted.DECOY).values():
        words.mark[at[spikes[at]]] = planted.HARD
    count = np.bincount(words.token)
    wanted = {
        token: max(1, round(count[token] / 4))
        for kind in ("common", "rare", "learned")
        for token in kinds[kind]
    }
    planted.scatter(rng, words, wanted, (planted.PLAIN,), planted.DECOY)
    nats = np.ones(planted.BACKGROUND + 1000)
    nats[kinds["common"] + kinds["rare"]] = rng.uniform(1.0, 2.0, rocks)
    nats[kinds["decoy"]], nats[kinds["learned"]] = 2.5, 2.0
    log = planted.as_log(words, *planted.losses(rng, words, nats[words.token]), kinds)
    return log, words, phrase_N


def many_short_prompts(seed: int, prompts: int = 5_000, rocks: int = 8) -> PlantedLog:
    """More prompts than are told apart: one sequence of 6 tokens each, of 150 types alike.

    Each rock is hard in a phrase of its own, which 40 prompts use; others in a tenth of all places,
    twice as often in every third prompt.
    """
    rng = np.random.default_rng([seed, prompts, rocks, 8])
    token = rng.integers(0, 150, (prompts, 6))
    hard = rng.random((prompts, 6)) < np.where(np.arange(prompts) % 3 == 0, 0.16, 0.08)[:, None]
    ids = np.arange(200, 200 + rocks)
    used = rng.permutation(prompts)[: 40 * rocks].reshape(rocks, 40)
    for rock, at in zip(ids, used, strict=True):
        token[at] = rng.integers(0, 150, 6)
        token[at, 3], hard[at, 3] = rock, rng.random(40) < 0.9
    number = np.arange(prompts * 6)
    place = np.zeros(len(number))
    words = Text(token.ravel(), place, number, number // 6, number // 6, number % 6)
    losses = [
        np.where(hard.ravel(), rng.uniform(1, 3, len(number)), rng.uniform(0, 0.5, len(number)))
        for _ in range(2)
    ]
    return planted.as_log(words, *(x.astype(np.float32) for x in losses), {"rocks": ids.tolist()})


PLANTED_WORLDS = [(prompts, rocks) for prompts in (60, 200) for rocks in (10, 17, 30, 100)]
