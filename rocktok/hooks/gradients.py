"""Sums of gradient vectors by token type, taken from the pass that computes the statistics.

Shape suffixes: N rows of a block (scored positions), V vocabulary, W width of a sum (V, or the
dimensions of a sketch), S sums, K sums that a block adds to, R tables of a sketch; three: the sums
that a position belongs to (its type's, that of all, the balanced one).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

import rocktok.hashing as hashing
from rocktok.errors import HookError
from rocktok.hooks.background import describe
from rocktok.hooks.gradient_request import MOST_NUMBERS
from rocktok.hooks.statistics import tiles

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from rocktok.hooks.gradient_request import GradientRequest
    from rocktok.hooks.rollouts import Rollout

    Array = NDArray[Any]

# Rows added at once: with what is made of them they stay within the two tiles of the pass.
ROWS = 16
_NO_SUM = -1


class GradientSums:
    """Σ g by half of the prompts and token type, Σ g over all, and Σ g/n: one rank, one step.

    g is the gradient of a position's reverse KL with respect to the student's raw logits, exactly
    the vector whose norm is `grad_norm`; n is how often the position's token type occurs in the
    whole fixed text, on all ranks. For each sum there are also the count, Σ ‖g‖ and Σ ‖g‖². In a
    training loop of your own::

        recorder = Recorder("runs/mine", gradient_types=[11, 13])
        ...
        sums = GradientSums(recorder.gradients, mine, all_texts, vocabulary=32000)
        for batch in batches_of(mine):
            token_statistics(..., gradients=sums.batch(sequence_of_each_position, token_ids))
        recorder.record_gradients(step, sums)
        recorder.finish_step(step, table="gradients")

    Memory, whatever the number of positions: 4 bytes × W × (types + 2) for each half, counting only
    types that occur in `texts`, and some forty rows of the vocabulary while a block is added.

    Args:
        request: which types, or how wide a sketch.
        texts: those that this rank scores.
        everyone: those that all ranks score: their token counts are n.
        vocabulary: width of the logits.
        device: where the sums are kept: that of the logits.

    Source: the sums are the paper's (section on gradient geometry of arXiv 2605.09253); halves,
    norms and sketches are ours.
    """

    def __init__(
        self,
        request: GradientRequest,
        texts: Sequence[Rollout],
        everyone: Sequence[Rollout],
        *,
        vocabulary: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self._request = request
        self._vocabulary = vocabulary
        self._frequency = np.bincount(_scored(everyone), minlength=vocabulary)
        self._half_of = _halves(texts, request.seed)
        self._positions = len(_scored(texts))
        self._keys = self._places(texts)
        width = request.sketch_dims or vocabulary
        if len(self._keys) * width > MOST_NUMBERS:
            raise HookError(
                f"gradient sums of {len(self._keys)} types and halves, {width} numbers each, are "
                "more than can be stored; choose fewer types, or fewer dimensions"
            )
        self._sums_SW = torch.zeros(len(self._keys), width, device=device)
        # Each row belongs to a sum of its own at most, and to the four totals.
        most = min(ROWS + 4, len(self._keys))
        self._partial = torch.empty(most, width, device=device)
        self._sketch = None
        if request.sketch_dims:
            self._sketch = _Sketch(vocabulary, request.sketch_dims, request.seed, device)
        self._count_S = np.zeros(len(self._keys), dtype=np.int64)
        self._norm_S = np.zeros(len(self._keys))
        self._square_S = np.zeros(len(self._keys))
        self._seen = 0
        self._fault: str | None = None

    def _places(self, texts: Sequence[Rollout]) -> list[tuple[int, str, int]]:
        """(half, kind, token) of each sum, and for each half a table from token to sum."""
        keys: list[tuple[int, str, int]] = []
        self._place_HV = np.full((2, self._vocabulary), _NO_SUM, dtype=np.int64)
        self._totals_H2 = np.full((2, 2), _NO_SUM, dtype=np.int64)
        for half in range(2):
            mine = [text for text in texts if self._half_of[text.sequence_id] == half]
            tokens = np.unique(_scored(mine))
            if not len(tokens):
                continue
            self._totals_H2[half] = len(keys), len(keys) + 1
            keys += [(half, "global", -1), (half, "balanced", -1)]
            if self._request.types:
                tokens = tokens[np.isin(tokens, self._request.types)]
            self._place_HV[half, tokens] = len(keys) + np.arange(len(tokens))
            keys += [(half, "type", token) for token in tokens.tolist()]
        return keys

    def batch(self, sequence_N: ArrayLike, token_N: ArrayLike) -> _Batch:
        """What `token_statistics` takes as `gradients` for these scored positions of `texts`.

        Whatever goes wrong while it adds is kept for `columns` to tell: the statistics that the
        pass is also for are not lost.
        """
        token_N = np.asarray(token_N).astype(np.int64)
        sequences, inverse_N = np.unique(np.asarray(sequence_N), return_inverse=True)
        half_N = np.array([self._half_of[s] for s in sequences.tolist()], np.int64)[inverse_N]
        place_N3 = np.empty((len(token_N), 3), dtype=np.int64)
        place_N3[:, 0] = self._place_HV[half_N, token_N]
        place_N3[:, 1:] = self._totals_H2[half_N]
        weight_N3 = np.ones((len(token_N), 3))
        weight_N3[:, 2] /= self._frequency[token_N]
        return _Batch(self, place_N3, weight_N3)

    def columns(self) -> dict[str, Array]:
        """The rows of `gradients/` for these sums, but for `step`.

        Raises `RuntimeError` if not every position of `texts` was added once, or a gradient is not
        finite.
        """
        if self._fault is not None:
            raise RuntimeError(self._fault)
        if self._seen != self._positions:
            raise RuntimeError(f"{self._seen} of {self._positions} positions were scored")
        if not (np.isfinite(self._square_S).all() and self._sums_SW.isfinite().all()):
            raise RuntimeError("a gradient is NaN or infinite")
        rows = len(self._keys)
        return {
            "half": np.array([half for half, _, _ in self._keys], dtype=np.int32),
            "kind": np.array([kind for _, kind, _ in self._keys], dtype=object),
            "token_id": np.array([token for _, _, token in self._keys], dtype=np.int32),
            "count": self._count_S,
            "norm_sum": self._norm_S,
            "square_sum": self._square_S,
            "vector": self._sums_SW.cpu().numpy(),
            "vocab_size": np.full(rows, self._vocabulary, dtype=np.int32),
            "sketch_dims": np.full(rows, self._request.sketch_dims, dtype=np.int32),
            "seed": np.full(rows, self._request.seed, dtype=np.int64),
        }

    # --- for the batches -----------------------------------------------------------------------

    def add(self, place_N3: Array, weight_N3: Array, gradient_NV: Tensor) -> None:
        """Add weighted gradients to the sums that they belong to."""
        if gradient_NV.shape[1] != self._vocabulary:
            raise ValueError(
                f"the logits are {gradient_NV.shape[1]} wide, the run says {self._vocabulary}"
            )
        for start in range(0, len(gradient_NV), ROWS):
            part_NV = gradient_NV[start : start + ROWS].to(self._sums_SW.device)
            term_NW = part_NV if self._sketch is None else self._sketch(part_NV)
            rows = slice(start, start + ROWS)
            self._add_rows(place_N3[rows], weight_N3[rows], term_NW)

    def _add_rows(self, place_N3: Array, weight_N3: Array, term_NW: Tensor) -> None:
        # A product with few rows, then an addition without collisions: the same bits every time
        # on an accelerator, too, where adding row by row would race.
        row_M, column_M = np.nonzero(place_N3 != _NO_SUM)
        place_K, at_M = np.unique(place_N3[row_M, column_M], return_inverse=True)
        share_KN = np.zeros((len(place_K), len(place_N3)), dtype=np.float32)
        share_KN[at_M, row_M] = weight_N3[row_M, column_M]
        device = self._sums_SW.device
        partial_KW = self._partial[: len(place_K)]
        with tiles.full_float32():
            torch.mm(torch.from_numpy(share_KN).to(device), term_NW, out=partial_KW)
        self._sums_SW.index_add_(0, torch.from_numpy(place_K).to(device), partial_KW)

    def add_norms(self, place_N3: Array, weight_N3: Array, norm_N: Array) -> None:
        """Add the norms of a batch, whose gradients have all been added."""
        norm_N3 = weight_N3 * norm_N[:, None]
        there_N3 = place_N3 != _NO_SUM
        place_M = place_N3[there_N3]
        np.add.at(self._count_S, place_M, 1)
        np.add.at(self._norm_S, place_M, norm_N3[there_N3])
        np.add.at(self._square_S, place_M, norm_N3[there_N3] ** 2)
        self._seen += len(norm_N)

    def fail(self, error: Exception) -> None:
        """Remember why the sums are not whole; the first reason stays."""
        self._fault = self._fault or describe(error)


class _Batch:
    """A sink for the positions of one pass."""

    def __init__(self, sums: GradientSums, place_N3: Array, weight_N3: Array) -> None:
        self._sums = sums
        self._place_N3 = place_N3
        self._weight_N3 = weight_N3

    @torch.no_grad()
    def add(self, rows: Sequence[int], gradient_NV: Tensor) -> None:
        """See `GradientSink`."""
        try:
            row_M = np.asarray(rows, dtype=np.int64)
            self._sums.add(self._place_N3[row_M], self._weight_N3[row_M], gradient_NV)
        except Exception as error:
            self._sums.fail(error)

    def finish(self, norm_N: Tensor) -> None:
        """See `GradientSink`."""
        try:
            norms = norm_N.detach().cpu().numpy().astype(np.float64)
            self._sums.add_norms(self._place_N3, self._weight_N3, norms)
        except Exception as error:
            self._sums.fail(error)


class _Sketch:
    """`rocktok.hashing.sketch` on a device, for at most `ROWS` rows at a time."""

    def __init__(self, vocabulary: int, dims: int, seed: int, device: torch.device | str) -> None:
        order_V = hashing.sketch_order(vocabulary, seed)
        signs_RV = hashing.sketch_signs(vocabulary, seed)[:, order_V]
        self._order_V = torch.from_numpy(order_V).to(device)
        self._signs_RV = torch.from_numpy(signs_RV).to(device, torch.float32)
        self._widths = hashing.sketch_widths(dims)
        # Zeros behind the vocabulary fill the last line of every table.
        self._padded = torch.zeros(ROWS, vocabulary + max(self._widths), device=device)
        self._shuffled = torch.empty(ROWS, vocabulary, device=device)

    def __call__(self, gradient_NV: Tensor) -> Tensor:
        rows, vocabulary = gradient_NV.shape
        shuffled_NV = self._shuffled[:rows]
        torch.index_select(gradient_NV, 1, self._order_V, out=shuffled_NV)
        padded = self._padded[:rows]
        parts = []
        for sign_V, width in zip(self._signs_RV, self._widths, strict=True):
            torch.mul(shuffled_NV, sign_V, out=padded[:, :vocabulary])
            lines = -(-vocabulary // width)
            shape, strides = (rows, lines, width), (padded.stride(0), width, 1)
            parts.append(padded.as_strided(shape, strides).sum(1))
        return torch.cat(parts, 1)


def _scored(texts: Sequence[Rollout]) -> Array:
    """Token ids of all scored positions."""
    tokens = [text.completion_token_ids[text.loss_mask != 0] for text in texts]
    return np.concatenate([np.zeros(0, np.int64), *tokens]).astype(np.int64)


def _halves(texts: Sequence[Rollout], seed: int) -> dict[int, int]:
    """Half of the prompts that each sequence is in."""
    prompt_N = np.array([hashing.prompt_hash(text.prompt_id) for text in texts], dtype=np.uint64)
    half_N = hashing.halves(prompt_N, seed).tolist()
    return dict(zip((text.sequence_id for text in texts), half_N, strict=True))
