"""Which sequences of fixed text stand at every step, one pass over each step."""

from __future__ import annotations

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
    name, steps = sources[0].log.name, [source.post for source in sources]
    shared, text_S, most = np.zeros(0, np.int64), np.zeros(0, np.uint64), 0
    for source in sources:
        hashes = SequenceTexts()
        engine.run(source, hashes)
        ids, hash_S = hashes.result()
        most = max(most, len(ids))
        if source is sources[0]:
            shared, text_S = ids, hash_S
            continue
        # What is not at this step need not be kept for the next ones.
        shared, ours, here = np.intersect1d(shared, ids, assume_unique=True, return_indices=True)
        text_S, other_S = text_S[ours], hash_S[here]
        if not len(shared):
            raise LogError(
                f"{name}: no sequence of fixed/ is scored at every step from {steps[0]} to "
                f"{source.post}; choose other steps with --pre and --post"
            )
        if (text_S != other_S).any():
            raise LogError(
                f"{name}: sequence {shared[text_S != other_S][0]} at step {source.post} has "
                f"another text than at step {steps[0]}; a sequence_id in fixed/ must mean the same "
                "text at every step"
            )
    return shared, most
