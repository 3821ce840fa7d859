"""Projections of hidden states where they are: the part of `rocktok.hooks.contexts` with torch.

Shape suffixes: N positions, K projections, H hidden size.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch

from rocktok.hooks.contexts import BITS, projection
from rocktok.hooks.statistics import tiles

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

#: Positions that are copied and converted to float32 at once.
_ROWS = 4_096


@torch.no_grad()
def project_hidden(hidden: Tensor, place_N: tuple[Tensor, ...]) -> NDArray[np.float32]:
    """(N, K) float32 projections, in host memory, of hidden states (…, H) at N places.

    `place_N`: one index for each leading dimension. In float32 whatever autocast or TF32 settings
    are in force.
    """
    matrix_KH = _matrix(hidden.shape[-1], hidden.device)
    projected_NK = np.empty((len(place_N[0]), BITS), dtype=np.float32)
    with torch.autocast(hidden.device.type, enabled=False):
        for start in range(0, len(projected_NK), _ROWS):
            part = tuple(index_N[start : start + _ROWS] for index_N in place_N)
            rows_NK = tiles.project(hidden[part], matrix_KH, None)
            projected_NK[start : start + _ROWS] = rows_NK.cpu().numpy()
    return projected_NK


@lru_cache(maxsize=2)
def _matrix(hidden_size: int, device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(projection(hidden_size).T)).to(device)
