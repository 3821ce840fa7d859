"""Which sequences of fixed text stand at every step, one pass over each step."""

from __future__ import annotations

from functools import partial, reduce

import numpy as np

from rocktok._types import Array
from rocktok.analyses.stagnation.same_text import SequenceTexts
from rocktok.engine.passes import Engine
from rocktok.engine.source import Source
from rocktok.errors import LogError


def shared_sequences(engine: Engine, sources: list[Source]) -> tuple[Array, int]:
    """(ascending ids of the sequences that every step has; most sequences that a step has).

    Raises `LogError` where there are none, and where one is not the same text at every step.
    """
    name, steps, texts = sources[0].log.name, [source.post for source in sources], []
    for source in sources:
        hashes = SequenceTexts()
        engine.run(source, hashes)
        texts.append(hashes.result())
    shared: Array = reduce(partial(np.intersect1d, assume_unique=True), (ids for ids, _ in texts))
    if not len(shared):
        raise LogError(
            f"{name}: no sequence of fixed/ stands at all of the steps {steps[0]} to {steps[-1]}; "
            "choose others by --pre and --post"
        )
    text_S, *others = (hash_S[np.searchsorted(ids, shared)] for ids, hash_S in texts)
    for step, other_S in zip(steps[1:], others, strict=True):
        if (text_S != other_S).any():
            raise LogError(
                f"{name}: sequence {shared[text_S != other_S][0]} at step {step} is not the text "
                f"that it is at step {steps[0]}; a sequence_id in fixed/ must mean the same text "
                "at every step"
            )
    return shared, max(len(ids) for ids, _ in texts)
