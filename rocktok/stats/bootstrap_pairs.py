"""Sums by prompt and type that wait for the weights of the bootstrap.

Array suffixes: N rows of a batch; V token ids; R runs of neighbouring rows of one prompt; E pairs
of a run and a type; P prompts; M quantities; D digits of a quantity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rocktok._types import Array
from rocktok.stats.accumulator import Batch
from rocktok.stats.exact import DIGITS
from rocktok.stats.kernels import readonly


@dataclass(frozen=True)
class Pairs:
    """Sums of a batch by type and by run of neighbouring rows of one prompt.

    A prompt may have several runs. `sum_MED`: digits of each quantity, on its grids.
    """

    prompt_R: Array
    run_E: Array
    type_E: Array
    sum_MED: Array

    @classmethod
    def of(cls, place_V: Array, others: int, batch: Batch, quantities: int) -> tuple[Pairs, Array]:
        """The pairs of a batch, without sums yet; and the one that each row is of.

        Args:
            place_V: place of a token id among the types; the last stands for all ids beyond.
            others: place of all other types, the last one.
        """
        from rocktok.stats import bootstrap_loops

        token_N = readonly(batch["token_id"], np.int32)
        prompt_N = readonly(batch["prompt"], np.uint64)
        pair_N, run_E, type_E, first_R = (np.empty(len(token_N), np.int32) for _ in range(4))
        mark_T = np.full(others + 1, -1, dtype=np.int32)
        runs, pairs = bootstrap_loops.pairs_in_runs(
            place_V, token_N, prompt_N, mark_T, pair_N, run_E, type_E, first_R
        )
        sum_MED = np.zeros((quantities, pairs, DIGITS))
        # Copies: what waits shall not hold on to as much as the rows take.
        found = cls(prompt_N[first_R[:runs]], run_E[:pairs].copy(), type_E[:pairs].copy(), sum_MED)
        return found, pair_N

    def add(self, m: int, batch: Batch, name: str, pair_N: Array, grid_D: Array) -> None:
        """Add the values of a quantity, taken apart on its grids."""
        from rocktok.stats import bootstrap_loops

        if name == "":
            self.sum_MED[m, :, 0] = np.bincount(pair_N, minlength=len(self.run_E))
            return
        values_N = batch[name.removesuffix("²")]
        kind = np.float32 if values_N.dtype == np.float32 else np.float64
        bootstrap_loops.add_digits(
            pair_N, readonly(values_N, kind), name.endswith("²"), grid_D, self.sum_MED[m]
        )

    @staticmethod
    def joined(parts: Sequence[Pairs]) -> tuple[Array, Array, Array, Array]:
        """Distinct prompts; of the pairs of all parts place of the prompt, type, and sums."""
        before = np.cumsum([0, *(len(part.prompt_R) for part in parts)])
        run_E = np.concatenate([part.run_E + at for part, at in zip(parts, before, strict=False)])
        prompt_R = np.concatenate([part.prompt_R for part in parts])
        prompt_P, place_R = np.unique(prompt_R, return_inverse=True)
        type_E = np.concatenate([part.type_E for part in parts])
        sum_MED = np.concatenate([part.sum_MED for part in parts], axis=1)
        return prompt_P, place_R[run_E], type_E, sum_MED
