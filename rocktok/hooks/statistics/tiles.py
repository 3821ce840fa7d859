"""Logits a few rows at a time: float32 projection, and the statistics of one block of rows.

Shape suffixes: N rows of a block (scored positions), V vocabulary, H hidden size, C rows of a chunk
of a head. A leading `...` stands for the caller's own dimensions, such as (batch, completion).
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TypeVar

import torch
from torch import Tensor

from rocktok.hooks.statistics import likeliest

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
# How far below its row's largest an excluded logit is put, so that FLOOR takes it.
EXCLUDED = 200.0

# Statistics of some tokens of a row: first weights, exp() of logits counted from the largest.
_OF_SOME = frozenset(
    ("student_end", "teacher_end", "student_probs", "teacher_probs", "teacher_probs_of_student")
)


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
            return out_NV.copy_(raw_NV).mul_(factor)
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
    """The statistics of one block of rows; `columns` are those wanted besides the loss."""

    student: Model
    teacher: Model
    temperature: float
    columns: frozenset[str]
    # How many of each model's likeliest tokens are told.
    top: int = 0
    ends_M: Tensor | None = None  # terminal ids
    # Where the teacher gives -inf, a row's loss comes out inf or NaN. To say inf only where the
    # loss is infinite takes more time and memory: this does.
    excluded: bool = False

    def workspace(self, rows: int) -> Tensor:
        """(3, rows, V) buffers. Allocating them anew for each block would double its cost."""
        shape = 3, rows, self.student.vocabulary
        return torch.empty(shape, dtype=torch.float32, device=self.student.device)

    @torch.no_grad()  # again, because it holds per thread
    def statistics(
        self,
        student_NV: Tensor,
        teacher_NV: Tensor,
        token_N: Tensor,
        space: Tensor,
        take: Callable[[Tensor], None] | None = None,
    ) -> dict[str, Tensor]:
        """Columns of (N,) from raw logits (N, V), which may lie in the first two buffers.

        `take` is given the gradients (N, V), in a buffer that is used again; rows whose loss is
        not finite are 0.
        """
        result: dict[str, Tensor] = {}
        with_gradient = "grad_norm" in self.columns
        slope = self.student.slope(student_NV, self.temperature) if with_gradient else 1.0
        student_NV = self.student.final_logits(student_NV, self.temperature, space[0])
        teacher_NV = self.teacher.final_logits(teacher_NV, self.temperature, space[1])
        # Orders are of the logits as they are: counting them from the largest makes new ties.
        if self.top:
            result["student_ids"] = likeliest.ids(student_NV, self.top)
            result["teacher_ids"] = likeliest.ids(teacher_NV, self.top)
        if "teacher_rank" in self.columns:
            result["teacher_rank"] = likeliest.ranks(teacher_NV, token_N)
        if self.excluded:
            student_NV, teacher_NV, infinite_N = _without_excluded(student_NV, teacher_NV)
        # Logits from here on count from their row's largest: exp() of one is at most 1.
        teacher_NV = torch.sub(teacher_NV, teacher_NV.amax(-1, keepdim=True), out=space[1])
        masked = bool(teacher_NV.amin() < MASK) if teacher_NV.numel() else False
        weight_NV = torch.clamp_min(teacher_NV, FLOOR, out=space[2]).exp_()
        sum_q_N = weight_NV.sum(-1)
        if "teacher_entropy" in self.columns:
            known_NV = teacher_NV.clamp_min(FLOOR) if masked else teacher_NV
            result["teacher_entropy"] = _entropy(weight_NV.mul_(known_NV), sum_q_N)
        student_NV = torch.sub(student_NV, student_NV.amax(-1, keepdim=True), out=space[0])
        result["student_logprob"] = _gather(student_NV, token_N)
        result["teacher_logprob"] = _gather(teacher_NV, token_N) - sum_q_N.log()
        self._add_weights_of_some(result, student_NV, teacher_NV)
        if "forward_kl" in self.columns:
            beyond_N = _beyond_floor(student_NV, teacher_NV)
        if masked:
            _floor_where_both_are_low(student_NV, teacher_NV)
        weight_NV = torch.exp(student_NV.clamp_min_(FLOOR), out=space[2])
        sum_p_N = weight_NV.sum(-1)
        result["student_logprob"] -= sum_p_N.log()
        result["log_ratio"] = result["student_logprob"] - result["teacher_logprob"]
        for name in _OF_SOME & result.keys():
            sum_N = sum_p_N if name.startswith("student") else sum_q_N
            weight = result[name]
            result[name] = weight / (sum_N if weight.dim() == 1 else sum_N.unsqueeze(1))
        if "teacher_rank" in result:
            result["teacher_rank"].masked_fill_(result["teacher_logprob"].isnan(), 0)
        shift_N1 = (sum_p_N.log() - sum_q_N.log()).unsqueeze(1)
        excess_NV = teacher_NV.sub_(student_NV).add_(shift_N1)  # log q - log p
        if "student_entropy" in self.columns:
            result["student_entropy"] = _entropy(student_NV.mul_(weight_NV), sum_p_N)
        # p·(expm1(log q/p) - log q/p) sums to the divergence because p and q sum to one; unlike
        # p·log p/q its terms are never negative, so nothing cancels where p and q nearly agree.
        terms_NV = torch.expm1(excess_NV, out=space[0]).sub_(excess_NV).mul_(weight_NV)
        result["loss"] = terms_NV.sum(-1).div_(sum_p_N).clamp_min_(0)
        if "forward_kl" in self.columns:
            terms_NV = _forward(excess_NV, space[0]).mul_(weight_NV)
            forward_N = terms_NV.sum(-1).div_(sum_p_N).add_(beyond_N.div_(sum_q_N))
            result["forward_kl"] = forward_N.clamp_min_(0)
        if "jsd" in self.columns:
            terms_NV = _jensen_shannon(excess_NV, space[0]).mul_(weight_NV)
            result["jsd"] = terms_NV.sum(-1).div_(sum_p_N).clamp_(0, math.log(2))
        if with_gradient:
            excess_NV.add_(result["loss"].unsqueeze(1))
            descent_NV, scale = _descent(excess_NV, weight_NV, sum_p_N, slope, space[0])
            norm_N: Tensor = torch.linalg.vector_norm(descent_NV, dim=-1)
            result["grad_norm"] = norm_N.mul_(scale).div_(sum_p_N)
        if self.excluded:
            for name in {"loss", "grad_norm"} & result.keys():
                result[name].masked_fill_(infinite_N, math.inf)
        if with_gradient and take is not None:
            descent_NV.mul_((-scale / sum_p_N).unsqueeze(1))
            _clear(descent_NV, ~result["loss"].isfinite())
            take(descent_NV)
        return result

    def _add_weights_of_some(
        self, result: dict[str, Tensor], student_NV: Tensor, teacher_NV: Tensor
    ) -> None:
        """Add weights of the likeliest tokens and of the terminal ones, by counted logits."""
        if self.top:
            student_ids, teacher_ids = result["student_ids"], result["teacher_ids"]
            result["student_probs"] = student_NV.gather(1, student_ids).exp_()
            result["teacher_probs"] = teacher_NV.gather(1, teacher_ids).exp_()
            result["teacher_probs_of_student"] = teacher_NV.gather(1, student_ids).exp_()
        for name, logits_NV in (("student_end", student_NV), ("teacher_end", teacher_NV)):
            if name in self.columns and self.ends_M is not None:
                result[name] = logits_NV.index_select(1, self.ends_M).exp_().sum(-1)


def _beyond_floor(student_NV: Tensor, teacher_NV: Tensor) -> Tensor:
    """What FLOOR takes from Σ q·log(q/p), times the sum of the teacher's weights (N,)."""
    lost_NV = (FLOOR - student_NV).clamp_min_(0)
    # exp() of the teacher's may be 0 where q is not, and both 0 where neither counts.
    absent_NV = lost_NV == math.inf
    lost_NV.mul_(teacher_NV.exp()).masked_fill_(absent_NV, math.inf)
    return lost_NV.masked_fill_(absent_NV & (teacher_NV == -math.inf), 0.0).sum(-1)


def _forward(excess_NV: Tensor, out_NV: Tensor) -> Tensor:
    """(1 + E)·d - E, E = expm1(d): q·log(q/p) - q + p, over p; never negative."""
    torch.expm1(excess_NV, out=out_NV)
    return torch.addcmul(excess_NV - out_NV, out_NV, excess_NV, out=out_NV)


def _jensen_shannon(excess_NV: Tensor, out_NV: Tensor) -> Tensor:
    """½·(E·d/2 - (2 + E)·log cosh(d/2)): what a token adds to the divergence, over p."""
    # Below, what is added is log(2)/2 but for 1e-21.
    half_NV = excess_NV.clamp_min(-50.0).mul_(0.5)
    cosh_NV = half_NV.sinh().square_().log1p_().mul_(0.5)
    torch.expm1(half_NV * 2, out=out_NV)
    half_NV.mul_(out_NV)
    return out_NV.add_(2).mul_(cosh_NV).neg_().add_(half_NV).mul_(0.5)


def _floor_where_both_are_low(student_NV: Tensor, teacher_NV: Tensor) -> None:
    """Of tokens that both models mask with some -1e30, exp(FLOOR) · 1e30 nats would remain."""
    low_NV = (student_NV < FLOOR) & (teacher_NV < FLOOR) & teacher_NV.isfinite()
    teacher_NV.masked_fill_(low_NV, FLOOR)


def _gather(values_NV: Tensor, token_N: Tensor) -> Tensor:
    return values_NV.gather(1, token_N.unsqueeze(1)).squeeze(1)


def _entropy(terms_NV: Tensor, sum_N: Tensor) -> Tensor:
    """Entropy of exp(x) / sum from the terms x·exp(x)."""
    return (sum_N.log() - terms_NV.sum(-1) / sum_N).clamp_min_(0)


def _descent(
    centred_NV: Tensor, weight_NV: Tensor, sum_N: Tensor, slope: Tensor | float, out_NV: Tensor
) -> tuple[Tensor, float]:
    """The gradient but for a factor of -scale / sum, and scale; overwrites `out`.

    It is p·c·slope, with p = weight / sum and c = log q - log p + loss, and the sign turned.
    """
    torch.mul(centred_NV, weight_NV, out=out_NV)
    # Σ p·c is zero. Taking off what rounding left of it keeps the norm right where p is all but
    # certain and the gradient far smaller than the loss.
    rest_N = out_NV.sum(-1) / sum_N
    out_NV.addcmul_(weight_NV, rest_N.unsqueeze(1), value=-1)
    if isinstance(slope, Tensor):
        return out_NV.mul_(slope), 1.0
    return out_NV, slope


def _clear(values_NV: Tensor, where_N: Tensor) -> None:
    """Set rows to 0."""
    if values_NV.device.type != "cpu":
        # Asking which rows would make the host wait.
        values_NV.masked_fill_(where_N.unsqueeze(1), 0.0)
        return
    for row in where_N.nonzero().flatten().tolist():
        values_NV[row] = 0.0


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
