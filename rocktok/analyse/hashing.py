"""Seeded hashes: the same draw for the same row, however the log is cut or the work is shared."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


def mix(x_N: Array) -> Array:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014), elementwise on uint64."""
    with np.errstate(over="ignore"):
        x_N = (x_N ^ (x_N >> np.uint64(30))) * _FIRST
        x_N = (x_N ^ (x_N >> np.uint64(27))) * _SECOND
    mixed: Array = x_N ^ (x_N >> np.uint64(31))
    return mixed


def hash_rows(seed: int, *keys_N: Array) -> Array:
    """64-bit hashes of (seed, key, key, …), one per row; keys are integer arrays."""
    with np.errstate(over="ignore"):
        hashed = mix(np.asarray([seed & 0xFFFFFFFFFFFFFFFF], dtype=np.uint64) + _GOLDEN)
        for key_N in keys_N:
            unsigned = np.asarray(key_N)
            if unsigned.dtype != np.uint64:
                unsigned = unsigned.astype(np.int64).view(np.uint64)
            hashed = mix(hashed + _GOLDEN * (unsigned + np.uint64(1)))
    return hashed
