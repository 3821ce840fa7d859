"""Logs of `worlds.py` with the teacher's hidden states, of which we know what they are made of.

A hidden state is a sum of random vectors, each of about the length that `Mix` gives: one of the
place (nearly the same for the copies of a place), and one of what it has in common with others: its
meaning, its token, its prompt, its topic, its position, or how hard it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from tests import planted, worlds
from tests.planted import Array, PlantedLog, Text

BITS = 256


@dataclass(frozen=True)
class Mix:
    """Lengths of the parts of a hidden state, and its dimensions."""

    dims: int = 128
    noise: float = 1.0
    meaning: float = 0.0
    token: float = 0.0
    prompt: float = 0.5
    topic: float = 0.0
    position: float = 0.5
    hard: float = 0.0


def sketch(hidden_ND: Array) -> Array:
    """(N, 32) uint8, as the format defines it."""
    hidden_ND = hidden_ND - hidden_ND.mean(axis=0, dtype=np.float64).astype(np.float32)
    rng = np.random.Generator(np.random.PCG64(seed=0))
    projected = hidden_ND @ rng.standard_normal((hidden_ND.shape[1], BITS), np.float32)
    bits: Array = np.packbits(projected > 0, axis=1, bitorder="little")
    return bits


def hidden_states(
    rng: np.random.Generator,
    text: Text,
    mix: Mix,
    *,
    meaning_N: Array | None = None,
    topic_N: Array | None = None,
    hard_N: Array | None = None,
) -> Array:
    """(N, D) float32. `meaning_N`, `topic_N`: which one, below 0 none; `hard_N`: how hard."""

    def vectors(count: int) -> Array:
        return (rng.standard_normal((count, mix.dims)) / mix.dims**0.5).astype(np.float32)

    places, rows = int(text.place.max()) + 1, len(text.place)
    hidden_ND = np.float32(mix.noise * 0.9**0.5) * vectors(places)[text.place]
    hidden_ND += np.float32(mix.noise * 0.1**0.5) * vectors(rows)
    for length, group_N in (
        (mix.meaning, meaning_N),
        (mix.token, text.token),
        (mix.prompt, text.prompt),
        (mix.topic, topic_N),
    ):
        if length and group_N is not None:
            vector_GD = np.float32(length) * vectors(int(group_N.max()) + 2)
            vector_GD[-1] = 0
            hidden_ND += vector_GD[group_N]
    if mix.position:
        wave_D = np.geomspace(1, 1 / 500, mix.dims // 2)
        angle_ND = text.position[:, None] * wave_D
        both_ND = np.concatenate((np.sin(angle_ND), np.cos(angle_ND)), axis=1)
        hidden_ND += (mix.position * (2 / mix.dims) ** 0.5 * both_ND).astype(np.float32)
    if mix.hard and hard_N is not None:
        hidden_ND += np.float32(mix.hard) * hard_N[:, None].astype(np.float32) * vectors(1)
    return hidden_ND


# --- null worlds -------------------------------------------------------------------------------


@dataclass(frozen=True)
class HiddenWorld:
    """A maker of logs without rocks; `sketched` makes their sketches, of which few are needed."""

    text: Callable[[np.random.Generator], tuple[Text, Array, Array | float]]
    mix: Mix
    meanings: int = 0

    def make(self, seed: int) -> PlantedLog:
        """The log without sketches."""
        return self._made(seed)[0]

    def sketched(self, seed: int) -> PlantedLog:
        """The same log with them."""
        log, text, topic, level = self._made(seed)
        rng = np.random.default_rng([seed, 12])
        meaning_N = None
        if self.meanings:
            # Stretches of 15 places that mean something, each in half of them.
            of_stretch = rng.integers(0, self.meanings, int(text.place.max()) // 15 + 1)
            of_stretch[rng.random(len(of_stretch)) < 0.5] = -1
            meaning_N = of_stretch[text.place // 15]
        hidden_ND = hidden_states(
            rng, text, self.mix, meaning_N=meaning_N, topic_N=topic[text.prompt],
            hard_N=np.broadcast_to(np.asarray(level), text.place.shape),
        )  # fmt: skip
        return replace(log, context=sketch(hidden_ND))

    def _made(self, seed: int) -> tuple[PlantedLog, Text, Array, Array | float]:
        rng = np.random.default_rng([seed, 11])
        text, topic, level = self.text(rng)
        losses = worlds.null_losses(rng, text, level=level)
        return planted.as_log(text, *losses, {}), text, topic, level


def _plain(rng: np.random.Generator) -> tuple[Text, Array, Array | float]:
    return *worlds.text(rng, worlds.Shape()), 0.0


def _few_prompts(rng: np.random.Generator) -> tuple[Text, Array, Array | float]:
    return *worlds.text(rng, worlds.Shape(20, slots=20)), 0.0


def _sloped(rng: np.random.Generator) -> tuple[Text, Array, Array | float]:
    """Losses rise fivefold along the text, with types tied to places."""
    text, topic = worlds.text(rng, worlds.Shape())
    worlds.tie_types_to_places(rng, text)
    return text, topic, np.log(5) * worlds.relative_position(text)


def _runs(rng: np.random.Generator) -> tuple[Text, Array, Array | float]:
    text, topic = worlds.text(rng, worlds.Shape())
    return text, topic, worlds.runs(rng, text)


def _hard_direction(rng: np.random.Generator) -> tuple[Text, Array, Array | float]:
    """Each place is as hard as its hidden state goes in one direction."""
    text, topic = worlds.text(rng, worlds.Shape())
    return text, topic, 0.7 * worlds.normals(rng, text)


HIDDEN_NULLS = {
    "states independent of all": HiddenWorld(_plain, Mix(prompt=0.0, position=0.0)),
    "states of prompt and topic": HiddenWorld(_plain, Mix(prompt=1.0, topic=1.0)),
    "the same, 20 prompts": HiddenWorld(_few_prompts, Mix(prompt=1.0, topic=1.0)),
    "states of the position, losses rise fivefold": HiddenWorld(_sloped, Mix(position=2.0)),
    "states of the type": HiddenWorld(_plain, Mix(token=2.0)),
    "meanings that recur, states of the type too": HiddenWorld(
        _plain, Mix(meaning=1.0, token=1.0), meanings=40
    ),
    "hard runs, alike": HiddenWorld(_runs, Mix(token=0.5, hard=1.0)),
    "states tell how hard a place is": HiddenWorld(_hard_direction, Mix(token=0.5, hard=1.5)),
}


# --- hard anywhere -----------------------------------------------------------------------------


@dataclass(frozen=True)
class HardAnywhere:
    """Types that are hard in a third of their occurrences, anywhere: hard, but no context recurs.

    20 types, 0.2% to 1% of the text each, in text without phrases. `stretches`: so are the three
    places before and after those where they are hard.
    """

    mix: Mix
    prompts: int = 100
    stretches: bool = False

    def sketched(self, seed: int) -> PlantedLog:
        """A log of it; `kinds["decoy"]` are the types."""
        rng = np.random.default_rng([seed, 14])
        shape = worlds.Shape(self.prompts, slots=800 // self.prompts, phrases=0)
        text, topic = worlds.text(rng, shape)
        ids = list(range(planted.BACKGROUND, planted.BACKGROUND + 20))
        shares = np.geomspace(0.002, 0.01, len(ids))
        wanted = {v: round(s * len(text.token)) for v, s in zip(ids, shares, strict=True)}
        hard = rng.random(text.place.max() + 1)[text.place] < 1 / 3
        text.mark[:] = planted.PLAIN
        for v, number in wanted.items():
            at = planted.scatter(rng, text, {v: number}, (planted.PLAIN,), planted.DECOY)[v]
            text.mark[at[hard[at]]] = planted.HARD
        if self.stretches:
            hard_at = np.flatnonzero(text.mark == planted.HARD)
            near = (hard_at[:, None] + np.arange(-3, 4)).ravel()
            text.mark[near[(near >= 0) & (near < len(text.mark))]] = planted.HARD
        losses = planted.losses(rng, text, np.full(len(text.token), 2.0))
        hidden_ND = hidden_states(
            rng, text, self.mix, topic_N=topic[text.prompt], hard_N=text.mark == planted.HARD
        )
        log = planted.as_log(text, *losses, {"decoy": ids})
        return replace(log, context=sketch(hidden_ND))


HARD_ANYWHERE = {
    "states independent of all": HardAnywhere(Mix(prompt=0.0, position=0.0)),
    "states of the prompt": HardAnywhere(Mix(prompt=1.5)),
    "the same, 20 prompts": HardAnywhere(Mix(prompt=1.5), prompts=20),
    "states of prompt and topic": HardAnywhere(Mix(prompt=1.0, topic=1.0)),
    "states of the position": HardAnywhere(Mix(position=2.0)),
    "states of the type": HardAnywhere(Mix(token=1.0)),
    "states of little but the type": HardAnywhere(Mix(token=3.0)),
    "states tell how hard a place is": HardAnywhere(Mix(hard=2.0)),
    "64 dimensions": HardAnywhere(Mix(dims=64, token=1.0)),
}

HARD_STRETCHES = HardAnywhere(Mix(hard=1.0), stretches=True)
"""Contexts recur in being hard: the rule takes that for a context."""


# --- planted rocks -----------------------------------------------------------------------------


def recurring_meanings(
    seed: int, prompts: int, rocks: int, mix: Mix | None = None, noise: float | None = 1.0
) -> PlantedLog:
    """Rocks as in `worlds.planted_rocks`, but the tokens around them are drawn anew at each use.

    What recurs is the meaning of a phrase: all its places in all its uses have a part of their
    hidden states in common. So have they the part of what is about to be said, where `mix` has it.
    `noise`: the share of the tokens that are drawn anew; None: as few as in `planted_rocks`.
    """
    mix = Mix(meaning=1.0) if mix is None else mix
    rng = np.random.default_rng([seed, prompts, rocks, 13])
    log, text, phrase_N = worlds.rocks_in_text(rng, prompts, rocks, noise=noise)
    return replace(log, context=sketch(hidden_states(rng, text, mix, meaning_N=phrase_N)))
