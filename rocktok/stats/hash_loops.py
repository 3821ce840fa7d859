"""`hashing.mix` and `hashing.hash_rows`, for compiled loops.

Importing this module imports numba.
"""

from __future__ import annotations

import numpy as np

from rocktok.kernel import part

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@part
def _mixed(x: np.uint64) -> np.uint64:
    """`hashing.mix`."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@part
def seeded(seed: np.uint64) -> np.uint64:
    """The hash of a seed (as uint64) and no key."""
    return _mixed(seed + _GOLDEN)


@part
def keyed(hashed: np.uint64, key: np.uint64) -> np.uint64:
    """The hash with another key taken in."""
    return _mixed(hashed + _GOLDEN * (key + np.uint64(1)))
