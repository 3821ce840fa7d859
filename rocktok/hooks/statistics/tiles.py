"""Logits a few rows at a time: where they come from, float32 projection, and blocks on threads.

Shape suffixes: N rows of a block (scored positions), V vocabulary, H hidden size, C rows of a chunk
of a head. A leading `...` stands for the caller's own dimensions, such as (batch, completion).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TypeVar

import torch
from torch import Tensor

from rocktok.hooks.gradient_sinks import Delivery

Part = TypeVar("Part")

# Extra memory is promised in tiles of this many float32 rows of the vocabulary: at most two.
TILE_ROWS = 512
# Rows projected at once. Two models' take half of the two tiles; fewer rows would read and convert
# the heads more often, more would leave no room for the rest.
PROJECTED_ROWS = 256
# Rows in work at any time, by all workers. Twelve copies of 32 are three eighths of the two tiles.
MOST_BLOCK_ROWS = 32
# Above this many, workers wait for each other's turn in the interpreter.
MOST_WORKERS = 16
# Elements per block on the CPU: few enough to stay in cache, enough that workers seldom wait for
# the interpreter. (With 151,936 tokens, 2 to 8 rows took the same time; single rows took more.)
CPU_BLOCK_ELEMENTS = 1 << 19
# Elements per block on an accelerator: enough that arithmetic outlasts the kernel launches.
CUDA_BLOCK_ELEMENTS = 1 << 23
# Elements of a head converted to float32 at once.
CPU_CHUNK_ELEMENTS = 1 << 22
CUDA_CHUNK_ELEMENTS = 1 << 24
# Logits further than this below their row's largest count as this where a sum has exp() of them:
# that stays clear of float32's slow denormals, and the ratio of two of its overflow. The whole tail
# that it changes adds less than 1e-18 nats.
FLOOR = -60.0
# A finite logit this low is a mask: what FLOOR puts in the place of its exp() would count.
MASK = -1e15
# How far below its row's largest an excluded logit is put, so that it adds nothing.
EXCLUDED = 200.0


@dataclass(frozen=True)
class Positions:
    """The scored positions: one (N,) index per leading dimension, in row-major order."""

    index: tuple[Tensor, ...]
    every: bool

    def __len__(self) -> int:
        return len(self.index[0])

    @cached_property
    def places(self) -> list[tuple[int, ...]]:
        """The index as numbers, position by position."""
        return list(zip(*(index_N.tolist() for index_N in self.index), strict=True))

    def take(self, values: Tensor, start: int, stop: int) -> Tensor:
        """Rows start:stop of (..., W) values as (N, W): a view if it can be, else a copy."""
        if self._in_order(values):
            return values.view(-1, values.shape[-1])[start:stop]
        return values[tuple(index_N[start:stop] for index_N in self.index)]

    def load(self, values: Tensor, start: int, stop: int, out_NV: Tensor) -> Tensor:
        """As `take`; a copy goes into `out`, in its dtype."""
        if self._in_order(values) or values.device.type != "cpu":
            return self.take(values, start, stop)
        # Row by row, because gathering first would allocate, at the price of the arithmetic.
        for row_V, place in zip(out_NV, self.places[start:stop], strict=True):
            row_V.copy_(values[place])
        return out_NV

    def subset(self, place_M: Tensor) -> Positions:
        """Those among these positions that M indices choose."""
        return Positions(tuple(index_N[place_M] for index_N in self.index), every=False)

    def _in_order(self, values: Tensor) -> bool:
        return self.every and values.is_contiguous()


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

    def tile(
        self, positions: Positions, start: int, stop: int
    ) -> Callable[[int, int, Tensor], Tensor]:
        """What gives raw logits (N, V) of any rows within start:stop; projects them all, now.

        It takes the first and last row and a float32 buffer that it may use.
        """
        if self.head_VH is None:
            return lambda first, last, out_NV: positions.load(self._source, first, last, out_NV)
        logits_NV = self.project(positions, start, stop)
        return lambda first, last, _: logits_NV[first - start : last - start]

    def project(self, positions: Positions, start: int, stop: int) -> Tensor:
        """Raw logits (N, V) of rows start:stop, in float32, of a model given with its head."""
        assert self.head_VH is not None
        return project(positions.take(self._source, start, stop), self.head_VH, self.bias_V)

    def final_logits(self, raw_NV: Tensor, temperature: float, out_NV: Tensor) -> Tensor:
        """Float32 logits at the loss temperature: `out`, or the raw ones where they are that."""
        if self.softcap is None:
            factor = self.logit_scale / temperature
            if factor == 1 and raw_NV.dtype == torch.float32:
                return raw_NV
            out_NV.copy_(raw_NV)
            return out_NV if factor == 1 else out_NV.mul_(factor)
        out_NV.copy_(raw_NV).mul_(self.logit_scale / self.softcap)
        return out_NV.tanh_().mul_(self.softcap / temperature)

    def slope(self, raw_NV: Tensor, temperature: float) -> Tensor | float:
        """How fast the final logits change with the raw ones; (N, V) under a soft cap."""
        factor = self.logit_scale / temperature
        if self.softcap is None:
            return factor
        # 1 - tanh² would cancel where the cap saturates; 1 / cosh² does not.
        inner_NV = raw_NV.to(torch.float32) * (self.logit_scale / self.softcap)
        return inner_NV.cosh_().square_().reciprocal_().mul_(factor)


@dataclass(frozen=True)
class Block:
    """What is wanted of every block of rows; `columns` are those besides the loss."""

    student: Model
    teacher: Model
    temperature: float
    columns: frozenset[str]
    ends_M: Tensor | None = None  # terminal ids
    agreement: int = 0  # of how many likeliest tokens overlap and masses are wanted
    alternatives: int = 0  # how many likeliest tokens are

    @property
    def top(self) -> int:
        """How many of each model's likeliest tokens must be found."""
        return max(self.agreement, self.alternatives)


# What computes the columns (N,) of a block: from the block, raw logits (N, V) of both models,
# which may lie in the first two buffers, token ids (N,), the buffers, and what takes gradients.
Statistics = Callable[
    [Block, Tensor, Tensor, Tensor, Tensor, Callable[[Tensor], None] | None], dict[str, Tensor]
]


def tile(
    statistics: Statistics,
    copies: int,
    deliver: Delivery | None,
    block: Block,
    positions: Positions,
    token_N: Tensor,
    start: int,
    stop: int,
) -> list[dict[str, Tensor]]:
    """The columns of rows start:stop, block by block; their logits are gone when this returns.

    `statistics` has `copies` buffers (N, V), allocated once per worker: allocating them anew for
    each block would double its cost.
    """
    student_rows = block.student.tile(positions, start, stop)
    teacher_rows = block.teacher.tile(positions, start, stop)
    vocabulary, device = block.student.vocabulary, block.student.device
    step = min(block_rows(vocabulary, device), max(1, stop - start))

    def worker() -> Callable[[int, int], dict[str, Tensor]]:
        shape = copies, step, vocabulary
        buffers = torch.empty(shape, dtype=torch.float32, device=device)

        def work(first: int, last: int) -> dict[str, Tensor]:
            space = buffers[:, : last - first]
            with nullcontext() if deliver is None else deliver.block(first, last) as take:
                student_NV = student_rows(first, last, space[0])
                teacher_NV = teacher_rows(first, last, space[1])
                return statistics(block, student_NV, teacher_NV, token_N[first:last], space, take)

        return work

    # Even without positions, one empty block says which columns there are.
    firsts = range(start, max(stop, start + 1), step)
    blocks = [(first, min(first + step, stop)) for first in firsts]
    return each_block(worker, blocks, workers(device))


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


def block_rows(vocabulary: int, device: torch.device) -> int:
    """Rows per block: a cache's worth on the CPU, as many as pay for the launches on CUDA."""
    if device.type != "cpu":
        return min(max(1, CUDA_BLOCK_ELEMENTS // vocabulary), MOST_BLOCK_ROWS)
    return min(max(1, CPU_BLOCK_ELEMENTS // vocabulary), MOST_BLOCK_ROWS // workers(device))


def workers(device: torch.device) -> int:
    """Threads that compute blocks side by side; on CUDA the device does that itself."""
    return min(torch.get_num_threads(), MOST_WORKERS) if device.type == "cpu" else 1


def each_block(
    worker: Callable[[], Callable[[int, int], Part]], blocks: list[tuple[int, int]], threads: int
) -> list[Part]:
    """What work(first, last) gives for every block of rows, in order; `worker()` makes a `work`.

    Each block runs on one thread from beginning to end. Splitting every operation of a block over
    the threads, as PyTorch would, makes them meet some thirty times per block, which on a busy
    machine takes ten times as long as the arithmetic.
    """
    if threads == 1 or len(blocks) == 1:
        work = worker()
        return [work(first, last) for first, last in blocks]
    queue = iter(enumerate(blocks))

    def drain() -> list[tuple[int, Part]]:
        work = worker()
        return [(number, work(first, last)) for number, (first, last) in queue]

    pool = _single_threaded_workers(os.getpid(), threads)
    parts: dict[int, Part] = {}
    for future in [pool.submit(drain) for _ in range(threads)]:
        parts.update(future.result())
    return [parts[number] for number in range(len(blocks))]


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
