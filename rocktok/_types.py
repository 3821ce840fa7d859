"""Types that stand in signatures everywhere."""

from __future__ import annotations

from typing import Any, TypedDict

import numpy.typing as npt

#: A NumPy array of any type and shape; suffixes of the names say what its axes are.
Array = npt.NDArray[Any]


class LogIdentity(TypedDict):
    """What traces a result back to its log; every JSON output has it."""

    path: str
    run_id: str | None
    exactness: str
    trained_loss: bool | None
    vocab: str | None
    vocab_size: int | None
    shards: dict[str, int]
    skipped_shards: int
    versions: dict[str, str]
