"""Logs of three steps of one text, with gradients, of which we know how rocks learn.

Rocks stand in phrases of their own and are hard there; as many types of like loss and frequency are
hard anywhere, so that they are no rocks but can be compared. What a type keeps of its loss after
the second step, and how large its gradient is for its loss, is the same for all but for what the
world says.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from tests import planted
from tests.planted import HARD, PLAIN, Array, PlantedLog, Unit
from tests.worlds import sample

STEPS = 0, 100, 1000

KEEPS = 0.5
"""Share of the loss that is left at the last step."""


@dataclass(frozen=True)
class World:
    """How many rocks, and what is different about them.

    `keeps`: factor on what rocks keep; `gradient`: factor on their gradient for their loss; `own`:
    standard deviation, over types, of the logarithms of both.
    """

    rocks: int = 30
    alike: int = 60
    keeps: float = 1.0
    gradient: float = 1.0
    own: float = 0.0


def learning_log(seed: int, world: World, prompts: int = 120) -> PlantedLog:
    """`kinds`: `rocks`, and `alike`, the types of like loss."""
    rng = np.random.default_rng([seed, 11])
    ids = planted.BACKGROUND + np.arange(world.rocks + world.alike)
    rocks, alike = ids[: world.rocks], ids[world.rocks :]
    numbers = planted.plan(rng, prompts, rollouts=3, slots=12, share=0.3)
    units: list[Unit] = []
    for token in rocks.tolist():
        phrase = planted.put(rng, planted.template(rng, 14), token, HARD, 1)
        units += [planted.use(rng, phrase, 0.05) for _ in range(round(0.4 * prompts))]
    units += planted.chunks(rng, numbers.max() + 1 - len(units))
    text = planted.lay_out(numbers, [units[k] for k in rng.permutation(len(units))])
    held = int(np.median(np.bincount(text.token)[rocks]))
    planted.scatter(rng, text, dict.fromkeys(alike.tolist(), held), (PLAIN,), HARD)
    nats = np.ones(ids[-1] + 1)
    nats[ids] = rng.uniform(1.0, 2.0, len(ids))
    before, second = planted.losses(rng, text, nats[text.token])
    of_type = world.own * rng.standard_normal((2, len(nats)))
    of_type[0, rocks] += np.log(world.keeps)
    of_type[1, rocks] += np.log(world.gradient)
    of_prompt = rng.lognormal(0.0, 0.3, prompts)[text.prompt]
    keeps, gradient = np.exp(of_type[:, text.token]) * of_prompt
    last = KEEPS * second * keeps * rng.gamma(4, 0.25, len(second))
    losses = [before, second, last.astype(np.float32)]
    return _log(rng, text, losses, gradient, {"rocks": rocks.tolist(), "alike": alike.tolist()})


def shuffled_log(seed: int, *, persistent: bool) -> PlantedLog:
    """The sample's text, and losses dealt out anew over its positions: nothing is of a type.

    `persistent`: those of all steps together; else each step by itself.
    """
    rng = np.random.default_rng([seed, 12])
    text, before, after = sample()
    last = KEEPS * after * rng.gamma(4, 0.25, len(after)).astype(np.float32)
    losses = [before, after, last]
    order = rng.permutation(len(before))
    dealt = [loss[order if persistent else rng.permutation(len(loss))] for loss in losses]
    return _log(rng, text, dealt, np.ones(len(before)), {})


def _log(
    rng: np.random.Generator,
    text: planted.Text,
    losses: list[Array],
    gradient: Array,
    kinds: dict[str, list[int]],
) -> PlantedLog:
    """Gradients grow less than losses do, and differ between occurrences."""
    two = planted.as_log(text, losses[0], losses[1], kinds)
    first = two.rows[two.rows["step"] == two.rows["step"].iloc[0]]
    parts = []
    for step, loss in zip(STEPS, losses, strict=True):
        norm = gradient * loss / (0.5 + loss) * rng.lognormal(0.0, 0.3, len(loss))
        parts.append(first.assign(step=np.int32(step), loss=loss, grad_norm=norm.astype("f4")))
    return PlantedLog(pd.concat(parts, ignore_index=True), two.sequences, kinds)
