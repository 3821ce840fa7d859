"""Compiled loop that counts the prompts of each type up to a few: see `rocktok.stats.prompts`.

Importing this module imports numba. Array suffixes: N rows of a log; V token ids; K prompts of a
type.
"""

from __future__ import annotations

import numpy as np

from rocktok._types import Array
from rocktok.kernel import Kernel


@Kernel
def prompts_up_to(token_N: Array, prompt_N: Array, prompt_VK: Array, count_V: Array) -> None:
    """`kernels.prompts_up_to`."""
    most = prompt_VK.shape[1]
    for i in range(len(token_N)):
        v = np.int64(token_N[i])
        count = count_V[v]
        if count == most:
            continue
        prompt, k = prompt_N[i], count - 1
        # The last one first: it is that of the rows before.
        while k >= 0 and prompt_VK[v, k] != prompt:
            k -= 1
        if k < 0:
            prompt_VK[v, count] = prompt
            count_V[v] = count + 1
