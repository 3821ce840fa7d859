"""What gradient sums a recorder is asked for: exact ones of chosen types, or sketches of all."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rocktok.errors import HookError, LogError
from rocktok.files import local_path
from rocktok.hashing import SKETCH_LEAST
from rocktok.inputs import load_rocks

#: Types whose sums can be had: an id, ids, or the path of a file that `rocktok detect` wrote.
GradientTypes = Iterable[int] | str | os.PathLike[str]

#: Numbers that the vectors of one rank and step may hold: beyond, Arrow cannot address them, and
#: the training process would want more than 8 GB for them.
MOST_NUMBERS = (1 << 31) - 1


@dataclass(frozen=True)
class GradientRequest:
    """Exact sums of `types` (ascending ids), or sketches of all types in `sketch_dims` (not 0).

    `seed` is that of the halves and of the sketch.
    """

    types: tuple[int, ...] = ()
    sketch_dims: int = 0
    seed: int = 0

    def check_vocabulary(self, vocabulary: int) -> None:
        """Raise `HookError` for what cannot be had of logits of this width."""
        outside = [token for token in self.types if token >= vocabulary]
        if outside:
            raise HookError(
                f"Recorder: gradient_types holds {outside[0]}, outside the vocabulary of "
                f"{vocabulary}; were these types found in another model's log?"
            )
        if self.sketch_dims >= vocabulary:
            raise HookError(
                f"Recorder: gradient_sketch is {self.sketch_dims}, no less than the vocabulary "
                f"of {vocabulary}, so it saves nothing; give fewer dimensions, or gradient_types"
            )
        rows = 2 * (len(self.types) + 2)
        if rows * vocabulary > MOST_NUMBERS:
            most = MOST_NUMBERS // vocabulary // 2 - 2
            raise HookError(
                f"Recorder: gradient_types holds {len(self.types)} types, whose sums over a "
                f"vocabulary of {vocabulary} take {4 * rows * vocabulary / 1e9:.1f} GB; give at "
                f"most {most}, or gradient_sketch"
            )


def gradient_request(
    types: GradientTypes | None, sketch: int | None, seed: int, fixed_sequences: int
) -> GradientRequest | None:
    """Check the recorder's arguments; None if no gradients are asked for. Raises `HookError`."""
    if types is None and sketch is None:
        return None
    if types is not None and sketch is not None:
        raise HookError(
            "Recorder: gradient_types and gradient_sketch are both given; choose exact vectors "
            "of some types or sketches of all types"
        )
    if fixed_sequences == 0:
        raise HookError("Recorder: gradient sums need fixed text; fixed_sequences must not be 0")
    if not _is_integer(seed) or not -(1 << 63) <= seed < 1 << 63:
        raise HookError(f"Recorder: gradient_seed must be an integer of 64 bits, not {seed!r}")
    if sketch is not None:
        if not _is_integer(sketch) or sketch < SKETCH_LEAST:
            raise HookError(
                f"Recorder: gradient_sketch must be an integer of at least {SKETCH_LEAST}, not "
                f"{sketch!r}"
            )
        return GradientRequest(sketch_dims=int(sketch), seed=int(seed))
    assert types is not None
    if isinstance(types, (str, os.PathLike)):
        return GradientRequest(_rocks(local_path(types)), seed=int(seed))
    return GradientRequest(_ids(types), seed=int(seed))


def _ids(types: Iterable[int]) -> tuple[int, ...]:
    try:
        tokens = list(types)
    except TypeError as error:
        raise HookError(
            f"Recorder: gradient_types must be token ids or a path, not {types!r}"
        ) from error
    for token in tokens:
        if not _is_integer(token) or token < 0:
            raise HookError(f"Recorder: gradient_types holds {token!r}, which is not a token id")
    if not tokens:
        raise HookError("Recorder: gradient_types is empty; give token ids, or leave it out")
    return tuple(sorted({int(token) for token in tokens}))


def _rocks(path: Path) -> tuple[int, ...]:
    """Token ids of the rocks in a JSON file of `rocktok detect`."""
    try:
        return _ids(load_rocks(path))
    except LogError as error:
        raise HookError(f"Recorder: gradient_types: {error}; or give token ids") from error


def _is_integer(value: Any) -> bool:
    # NumPy's integers too; not True, which is 1.
    return hasattr(value, "__index__") and not isinstance(value, bool)
