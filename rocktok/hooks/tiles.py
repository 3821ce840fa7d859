"""Logits a few rows at a time: float32 projection, and the statistics of one block of rows.

Shape suffixes: N rows of a block (scored positions), V vocabulary, H hidden size. A leading `...`
stands for the caller's own dimensions, such as (batch, completion).
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor

Part = TypeVar("Part")

# Extra memory is promised in tiles of this many float32 rows of the vocabulary: at most two.
TILE_ROWS = 512
# Rows projected at once. Two models' take half of the two tiles; fewer rows would read and convert
# the heads more often, more would leave no room for the rest.
PROJECTED_ROWS = 256
# Rows in work at any time, by all workers. Six copies of 64 are three eighths of the two tiles.
MOST_BLOCK_ROWS = 64
# Above this many, workers wait for each other's turn in the interpreter.
MOST_WORKERS = 16
# Elements per block: its three working copies then stay in a core's own cache.
CPU_BLOCK_ELEMENTS = 1 << 17
# Elements per block on an accelerator: enough that arithmetic outlasts the kernel launches.
CUDA_BLOCK_ELEMENTS = 1 << 23
# Elements of a head converted to float32 at once.
CPU_CHUNK_ELEMENTS = 1 << 22
CUDA_CHUNK_ELEMENTS = 1 << 24
# Log-probabilities below this count as this where they enter a sum: exp() stays clear of float32's
# slow denormals, exp(-FLOOR) of its overflow, and the whole tail adds less than 1e-18 nats.
FLOOR = -60.0
# How far below its row's maximum an excluded logit is put: below FLOOR for any vocabulary.
EXCLUDED = 200.0


@dataclass(frozen=True)
class Positions:
    """The scored positions: one (N,) index per leading dimension, in row-major order."""

    index: tuple[Tensor, ...]
    every: bool

    def __len__(self) -> int:
        return len(self.index[0])

    def take(self, values: Tensor, start: int, stop: int) -> Tensor:
        """Rows start:stop of (..., W) values as (N, W), without copying all of `values`."""
        if self.every and values.is_contiguous():
            return values.view(-1, values.shape[-1])[start:stop]
        return values[tuple(index_N[start:stop] for index_N in self.index)]

    def subset(self, chosen: Tensor) -> Positions:
        """Those among these positions that (M,) indices choose."""
        return Positions(tuple(index_N[chosen] for index_N in self.index), every=False)


@dataclass(frozen=True)
class Model:
    """Where one model's logits come from, and how they become those of its distribution."""

    logits: Tensor | None  # (..., V), or else
    hidden: Tensor | None  # (..., H) with
    head_VH: Tensor | None
    bias_V: Tensor | None
    logit_scale: float
    softcap: float | None

    @property
    def vocabulary(self) -> int:
        """V."""
        return self._source.shape[-1] if self.head_VH is None else self.head_VH.shape[0]

    @property
    def device(self) -> torch.device:
        """Where the arithmetic happens."""
        return self._source.device

    @property
    def _source(self) -> Tensor:
        source = self.hidden if self.logits is None else self.logits
        assert source is not None
        return source

    def tile(self, positions: Positions, start: int, stop: int) -> Callable[[int, int], Tensor]:
        """What gives (N, V) raw logits of any rows within start:stop; projects them all, now."""
        if self.head_VH is None:
            return lambda first, last: positions.take(self._source, first, last)
        rows_NH = positions.take(self._source, start, stop)
        logits_NV = project(rows_NH, self.head_VH, self.bias_V)
        return lambda first, last: logits_NV[first - start : last - start]

    def final_logits(
        self, raw_NV: Tensor, temperature: float, with_slope: bool
    ) -> tuple[Tensor, Tensor | float]:
        """Logits at the loss temperature in float32, and their slope against the raw ones."""
        factor = self.logit_scale / temperature
        if self.softcap is None:
            logits_NV = raw_NV.to(torch.float32)
            return (logits_NV if factor == 1 else logits_NV * factor), factor
        capped_NV = raw_NV.to(torch.float32) * (self.logit_scale / self.softcap)
        slope_NV: Tensor | float = factor
        if with_slope:
            # 1 - tanh² would cancel where the cap saturates; 1 / cosh² does not.
            slope_NV = torch.cosh(capped_NV).square_().reciprocal_().mul_(factor)
        return capped_NV.tanh_().mul_(self.softcap / temperature), slope_NV


def block_rows(vocabulary: int, device: torch.device) -> int:
    """Rows per block: a cache's worth on the CPU, as many as pay for the launches on CUDA."""
    if device.type != "cpu":
        return min(max(1, CUDA_BLOCK_ELEMENTS // vocabulary), MOST_BLOCK_ROWS)
    most = MOST_BLOCK_ROWS // min(torch.get_num_threads(), MOST_WORKERS)
    return min(max(1, CPU_BLOCK_ELEMENTS // vocabulary), most)


def each_block(
    work: Callable[[int, int], Part], start: int, stop: int, step: int, device: torch.device
) -> list[Part]:
    """work(first, last) for every `step` rows of start:stop, in order; on the CPU in parallel.

    There, each block runs on one thread from beginning to end. Splitting every operation of a block
    over the threads, as PyTorch would, makes them meet some thirty times per block, which on a busy
    machine costs ten times the arithmetic.
    """
    blocks = [(first, min(first + step, stop)) for first in range(start, stop, step)]
    threads = min(torch.get_num_threads(), MOST_WORKERS)
    if device.type != "cpu" or threads == 1 or len(blocks) == 1:
        return [work(first, last) for first, last in blocks]
    queue = iter(enumerate(blocks))

    def drain() -> list[tuple[int, Part]]:
        return [(number, work(first, last)) for number, (first, last) in queue]

    pool = _single_threaded_workers(os.getpid(), threads)
    shares = [future.result() for future in [pool.submit(drain) for _ in range(threads)]]
    return [part for _, part in sorted((pair for share in shares for pair in share), key=_number)]


def _number(pair: tuple[int, object]) -> int:
    return pair[0]


@cache
def _single_threaded_workers(process: int, threads: int) -> ThreadPoolExecutor:
    """Workers whose operations PyTorch does not split; per process, as threads die in a fork."""
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, f"rocktok-{process}")
    all_here = threading.Barrier(threads)

    def settle() -> None:
        torch.set_num_threads(1)
        all_here.wait()

    for future in [pool.submit(settle) for _ in range(threads)]:
        future.result()
    # The setting holds for the thread that makes it and for all threads that start later: those
    # of the training process are to find what they would have found.
    torch.set_num_threads(before)
    return pool


def project(hidden_NH: Tensor, head_VH: Tensor, bias_V: Tensor | None) -> Tensor:
    """hidden · headᵀ + bias as (N, V) in float32, never with a float32 copy of the whole head."""
    vocabulary = len(head_VH)
    hidden_NH = hidden_NH.to(torch.float32)
    logits_NV = hidden_NH.new_empty(len(hidden_NH), vocabulary)
    chunk = _chunk_rows(head_VH)
    with full_float32():
        for start in range(0, vocabulary, chunk):
            weight_CH = head_VH[start : start + chunk].to(torch.float32)
            torch.mm(hidden_NH, weight_CH.T, out=logits_NV[:, start : start + chunk])
    return logits_NV if bias_V is None else logits_NV.add_(bias_V.to(torch.float32))


def _chunk_rows(head_VH: Tensor) -> int:
    vocabulary, size = head_VH.shape
    if head_VH.dtype == torch.float32 and head_VH.is_contiguous():
        return max(1, vocabulary)
    most = CPU_CHUNK_ELEMENTS if head_VH.device.type == "cpu" else CUDA_CHUNK_ELEMENTS
    return max(1, min(most, TILE_ROWS // 8 * vocabulary) // max(1, size))


@contextmanager
def full_float32() -> Iterator[None]:
    """Products of float32 matrices in float32, whatever training set (TF32 is off by 1e-3)."""
    name = "fp32_precision"
    backends = [torch.backends.cuda.matmul, torch.backends.mkldnn.matmul]  # type: ignore[attr-defined]
    if all(hasattr(backend, name) for backend in backends):
        before = [getattr(backend, name) for backend in backends]
        _set_each(backends, name, ["ieee"] * len(backends))
        try:
            yield
        finally:
            _set_each(backends, name, before)
        return
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)


def _set_each(objects: list[object], name: str, values: list[str]) -> None:
    for thing, value in zip(objects, values, strict=True):
        setattr(thing, name, value)


@dataclass(frozen=True)
class Block:
    """The statistics of one block of rows; `columns` are those wanted besides the loss."""

    student: Model
    teacher: Model
    temperature: float
    columns: frozenset[str]

    @torch.no_grad()  # again, as it holds per thread
    def statistics(
        self, student_NV: Tensor, teacher_NV: Tensor, token_N: Tensor, excluded: bool = False
    ) -> dict[str, Tensor]:
        """Columns of (N,) from raw logits (N, V).

        A logit of -inf in the teacher makes a row's loss inf or NaN here; `excluded` computes such
        rows with care (and more memory), and then says inf only where the loss is infinite.
        """
        with_gradient = "grad_norm" in self.columns
        logits_NV, slope = self.student.final_logits(student_NV, self.temperature, with_gradient)
        other_NV, _ = self.teacher.final_logits(teacher_NV, self.temperature, False)
        if excluded:
            logits_NV, other_NV, infinite_N = _without_excluded(logits_NV, other_NV)
        logp_NV = torch.log_softmax(logits_NV, -1)
        del logits_NV
        logq_NV = torch.log_softmax(other_NV, -1)
        del other_NV
        result = self._of_distributions(logp_NV, logq_NV, token_N, slope)
        if excluded:
            for name in {"loss", "grad_norm"} & result.keys():
                result[name].masked_fill_(infinite_N, math.inf)
        return result

    def _of_distributions(
        self, logp_NV: Tensor, logq_NV: Tensor, token_N: Tensor, slope: Tensor | float
    ) -> dict[str, Tensor]:
        """As `statistics`; overwrites both log-probabilities, and holds one more copy."""
        token_N1 = token_N.unsqueeze(1)
        student_N = logp_NV.gather(1, token_N1).squeeze(1)
        teacher_N = logq_NV.gather(1, token_N1).squeeze(1)
        result = {}
        work_NV = logq_NV.clamp_min(FLOOR).exp_()
        mass_q_N = work_NV.sum(-1)
        if "teacher_entropy" in self.columns:
            result["teacher_entropy"] = _entropy(work_NV.mul_(logq_NV), mass_q_N)
        excess_NV = logq_NV.sub_(logp_NV.clamp_min_(FLOOR))
        p_NV = torch.exp(logp_NV, out=work_NV)
        mass_p_N = p_NV.sum(-1)
        if "student_entropy" in self.columns:
            result["student_entropy"] = _entropy(logp_NV.mul_(p_NV), mass_p_N)
        result["student_logprob"] = (student_N - mass_p_N.log()).clamp_max_(0)
        result["teacher_logprob"] = (teacher_N - mass_q_N.log()).clamp_max_(0)
        result["log_ratio"] = result["student_logprob"] - result["teacher_logprob"]
        # p·(expm1(log q/p) - log q/p) sums to the divergence because p and q sum to one; unlike
        # p·log p/q its terms are never negative, so nothing cancels where p and q nearly agree.
        torch.expm1(excess_NV, out=logp_NV).sub_(excess_NV).mul_(p_NV)
        drift_N = mass_q_N / mass_p_N - 1
        loss_N = logp_NV.sum(-1) / mass_p_N - (drift_N - drift_N.log1p())
        result["loss"] = loss_N.clamp_min_(0)
        if "grad_norm" in self.columns:
            norm_N = _grad_norm(p_NV, excess_NV, loss_N, slope, logp_NV)
            result["grad_norm"] = norm_N / mass_p_N
        return result


def _entropy(terms_NV: Tensor, mass_N: Tensor) -> Tensor:
    """-Σ p·log p from p·log p as rounded, with p summing to `mass`.

    The mass is not quite one: beside a likely token, the softmax's own float32 sum can lose 1e-4 of
    it in a long tail. Two sums over the vocabulary make good for that in every column.
    """
    return (mass_N.log() - terms_NV.sum(-1) / mass_N).clamp_min_(0)


def _grad_norm(
    p_NV: Tensor, excess_NV: Tensor, loss_N: Tensor, slope: Tensor | float, out_NV: Tensor
) -> Tensor:
    """‖p·(log p/q - loss)·slope‖ with excess = log q/p, which it overwrites, as it does `out`."""
    torch.mul(excess_NV.add_(loss_N.unsqueeze(1)), p_NV, out=out_NV)
    # The gradient sums to zero. Taking off what rounding left of the sum keeps its norm right where
    # p is all but certain and the gradient far smaller than the loss.
    out_NV.addcmul_(p_NV, out_NV.sum(-1, keepdim=True), value=-1)
    capped = isinstance(slope, Tensor)
    norm_N: Tensor = torch.linalg.vector_norm(out_NV.mul_(slope) if capped else out_NV, dim=-1)
    return norm_N if capped else norm_N.mul_(slope)


def _without_excluded(student_NV: Tensor, teacher_NV: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Logits with -inf replaced by a low number that adds nothing, and which rows are infinite.

    A row's loss is infinite where the teacher excludes what the student does not.
    """
    outside_NV = teacher_NV == -math.inf
    both_NV = outside_NV & (student_NV == -math.inf)
    infinite_N = (outside_NV & ~both_NV).any(-1)
    low_N1 = student_NV.amax(-1, keepdim=True) - EXCLUDED
    student_NV = torch.where(both_NV, low_N1, student_NV)
    low_N1 = teacher_NV.amax(-1, keepdim=True) - EXCLUDED
    return student_NV, torch.where(outside_NV, low_N1, teacher_NV), infinite_N
