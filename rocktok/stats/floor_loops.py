"""Compiled loops that count the prompts of each type up to a few: see `rocktok.stats.prompts`.

Importing this module imports numba. Array suffixes: N rows of a log; V token ids; K prompts of a
type.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rocktok._types import Array
from rocktok.kernel import Kernel, part


@part
def _note(v: Any, prompt: Any, prompt_VK: Array, count_V: Array) -> None:
    """Note a prompt of a type, if it is new and there is room."""
    count = count_V[v]
    if count == prompt_VK.shape[1]:
        return
    k = count - 1
    # The last one first: it is that of the rows before.
    while k >= 0 and prompt_VK[v, k] != prompt:
        k -= 1
    if k < 0:
        prompt_VK[v, count] = prompt
        count_V[v] = count + 1


@Kernel
def prompts_up_to(token_N: Array, prompt_N: Array, prompt_VK: Array, count_V: Array) -> None:
    """`kernels.prompts_up_to`."""
    for i in range(len(token_N)):
        _note(np.int64(token_N[i]), prompt_N[i], prompt_VK, count_V)


@Kernel
def merge_prompts(more_VK: Array, more_V: Array, prompt_VK: Array, count_V: Array) -> None:
    """Note what another table holds, of no more types."""
    for v in range(len(more_V)):
        for k in range(more_V[v]):
            _note(v, more_VK[v, k], prompt_VK, count_V)
