"""Similar pairs of the windows of one type: our kernel, SciPy, and float32 products with torch.

And of 256-bit sketches: our kernel, NumPy, and products of ±1 with torch.

Run it as `python tests/benchmarks/similar_pairs.py [--sizes 5000 60000] [--repeats 3]`, with
`--sketches` for these alone. Every way
starts from token ids and ends with the number of similar partners (cosine of surprisals ≥ 0.5, from
other prompts) of each window; ways take turns, so that each ratio is of runs side by side.

The torch ways multiply the windows, as a sparse CSR matrix, with dense blocks of windows (one-hot
dense times dense does ten times the work): `blocked` all windows with 1,024 at a time, `tiled` in
tiles that stay in the cache, `halved` tiles of one triangle. All are float32, so not exact.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
import scipy
import torch

from rocktok.analyses.detect.compared import Windows
from rocktok.analyses.detect.similarity import Similarity
from rocktok.pairs import sketches
from rocktok.pairs.count import count_similar
from rocktok.pairs.rows import PairRule, window_rows

CORES = len(os.sched_getaffinity(0))
WIDTH = 16
GAMMA = 0.5

#: Vocabulary and share of windows that come from templates; the first is swept over sizes.
CORPORA = [(20_000, 0.3), (5_000, 0.3), (50_000, 0.3), (20_000, 0.0), (500, 0.3)]


def corpus(count: int, vocabulary: int, templates: float) -> tuple[Any, Any, Any]:
    """Zipf tokens; some windows are one of 300 templates, two in five of those word for word."""
    rng = np.random.default_rng(0)
    share_V = 1 / (np.arange(vocabulary) + 2.7)
    share_V /= share_V.sum()
    window_MK = rng.choice(vocabulary, size=(count, WIDTH), p=share_V)
    copies = int(count * templates)
    template_TK = window_MK[rng.integers(0, count, 300)]
    copy_CK = template_TK[np.minimum(rng.zipf(1.3, copies) - 1, 299)]
    altered_CK = (rng.random(copy_CK.shape) < 0.08) & (rng.random((copies, 1)) < 0.6)
    window_MK[:copies] = np.where(altered_CK, window_MK[:copies], copy_CK)
    rng.shuffle(window_MK)
    prompt_M = rng.integers(0, 2_000, count)
    return window_MK.astype(np.int32), -np.log(share_V), prompt_M


def by_kernel(window_MK: Any, weight_V: Any, prompt_M: Any) -> Any:
    """Ours."""
    rows = window_rows(window_MK, "surprisal", weight_V)
    rule = PairRule("surprisal", GAMMA - 1e-9, WIDTH)
    return count_similar(rows, None, rule, (prompt_M, prompt_M), jobs=CORES)


def by_scipy(window_MK: Any, weight_V: Any, prompt_M: Any) -> Any:
    """The reference."""
    windows = Windows(window_MK, prompt_M.astype(np.uint64))
    similarity = Similarity("surprisal", GAMMA, WIDTH, weight_V)
    return similarity.count_similar_scipy(windows, windows)


class Torch:
    """Windows as unit vectors in float32, multiplied block by block."""

    def __init__(self, window_MK: Any, weight_V: Any, prompt_M: Any) -> None:
        rows = window_rows(window_MK, "surprisal", weight_V)
        columns, self.column_E = np.unique(rows.column_E, return_inverse=True)
        length_E = np.repeat(rows.size_N, np.diff(rows.ptr_N))
        self.value_E = torch.from_numpy((rows.value_E / length_E).astype(np.float32))
        self.column_E = torch.from_numpy(self.column_E)
        self.ptr_N, self.columns = rows.ptr_N, len(columns)
        self.prompt_M = torch.from_numpy(prompt_M)
        self.count = len(window_MK)

    def sparse(self, start: int, stop: int) -> torch.Tensor:
        """Rows as CSR."""
        part = slice(self.ptr_N[start], self.ptr_N[stop])
        ptr = torch.from_numpy(self.ptr_N[start : stop + 1] - self.ptr_N[start])
        size = (stop - start, self.columns)
        return torch.sparse_csr_tensor(ptr, self.column_E[part], self.value_E[part], size=size)

    def dense(self, start: int, stop: int) -> torch.Tensor:
        """Rows as the columns of a dense matrix."""
        part = slice(self.ptr_N[start], self.ptr_N[stop])
        lengths = np.diff(self.ptr_N[start : stop + 1])
        row_E = torch.from_numpy(np.repeat(np.arange(stop - start), lengths))
        block = torch.zeros(self.columns, stop - start)
        block[self.column_E[part], row_E] = self.value_E[part]
        return block

    def similar(self, sparse: Any, dense: Any, ours: slice, theirs: slice) -> torch.Tensor:
        """1.0 for pairs that are similar and from different prompts."""
        scores = sparse @ dense
        scores.ge_(GAMMA - 1e-9)
        same = self.prompt_M[ours, None] == self.prompt_M[None, theirs]
        return scores.masked_fill_(same, 0.0)

    def count_pairs(self, height: int, width: int, *, half: bool) -> Any:
        """Tiles of height × width windows; `half`: only one triangle of (square) tiles."""
        counts = torch.zeros(self.count, dtype=torch.float64)
        tops = range(0, self.count, height)
        blocks = [self.sparse(top, min(top + height, self.count)) for top in tops]
        for left in range(0, self.count, width):
            theirs = slice(left, min(left + width, self.count))
            dense = self.dense(theirs.start, theirs.stop)
            for top, block in zip(tops, blocks, strict=True):
                if half and top < left:
                    continue
                ours = slice(top, min(top + height, self.count))
                similar = self.similar(block, dense, ours, theirs)
                counts[ours] += similar.sum(1)
                if half and top > left:
                    counts[theirs] += similar.sum(0)
        return counts.numpy().astype(np.int64)


def by_torch(height: int, width: int, *, half: bool = False) -> Callable[..., Any]:
    """A way to count with torch."""

    def count(window_MK: Any, weight_V: Any, prompt_M: Any) -> Any:
        rows = Torch(window_MK, weight_V, prompt_M)
        return rows.count_pairs(min(height, rows.count), width, half=half)

    return count


def sketch_corpus(count: int) -> tuple[Any, Any]:
    """Sketches, a third of them near one of 300; and their prompts."""
    rng = np.random.default_rng(0)
    sketch_MW = rng.integers(0, 2**64, (count, 4), dtype=np.uint64)
    copies = sketch_MW[rng.integers(0, 300, count // 3)]
    noise = rng.integers(0, 2**64, (3, *copies.shape), dtype=np.uint64)
    sketch_MW[-len(copies) :] = copies ^ np.bitwise_and.reduce(noise)
    return sketch_MW, rng.integers(0, 2_000, count).astype(np.uint64)


#: Bits of 256 in which similar sketches may differ: γ of random ones.
MOST = 115


def sketches_by_kernel(sketch_MW: Any, prompt_M: Any) -> Any:
    """Ours."""
    return sketches.count_near((sketch_MW, prompt_M), None, MOST, jobs=CORES)


def sketches_by_numpy(sketch_MW: Any, prompt_M: Any) -> Any:
    """The twin."""
    counts = np.zeros(len(sketch_MW), dtype=np.int64)
    for row_E, other_E, _ in sketches.near_pairs(sketch_MW, sketch_MW, MOST):
        partner_E = prompt_M[row_E] != prompt_M[other_E]
        counts += np.bincount(row_E[partner_E], minlength=len(counts))
    return counts


def sketches_by_torch(kind: torch.dtype) -> Callable[..., Any]:
    """Products of ±1, tile by tile: exact, as all sums are whole and at most 256."""

    def count(sketch_MW: Any, prompt_M: Any) -> Any:
        bits = np.unpackbits(sketch_MW.view(np.uint8), axis=1)
        signs = torch.from_numpy(bits.astype(np.float32) * 2 - 1).to(kind)
        prompts = torch.from_numpy(prompt_M.astype(np.int64))
        least = sketches.BITS - 2 * MOST
        counts = torch.zeros(len(sketch_MW), dtype=torch.int64)
        for start in range(0, len(signs), 1024):
            ours = slice(start, start + 1024)
            near = (signs[ours] @ signs.T) >= least
            near &= prompts[ours, None] != prompts[None, :]
            counts[ours] = near.sum(1)
        return counts.numpy()

    return count


SKETCH_WAYS: dict[str, Callable[..., Any]] = {
    "kernel": sketches_by_kernel,
    "numpy": sketches_by_numpy,
    "torch float32": sketches_by_torch(torch.float32),
    "torch bfloat16": sketches_by_torch(torch.bfloat16),
}


WAYS: dict[str, Callable[..., Any]] = {
    "kernel": by_kernel,
    "scipy": by_scipy,
    "torch blocked": by_torch(1 << 30, 1024),
    "torch tiled": by_torch(2048, 256),
    "torch halved": by_torch(1024, 1024, half=True),
}


def measure(
    title: str, data: tuple[Any, ...], functions: dict[str, Callable[..., Any]], repeats: int
) -> None:
    """Print one line: seconds of each way, and the paired ratios to ours."""
    count = len(data[0])
    ways = [w for w in functions if w not in ("scipy", "numpy") or count <= 10_000]
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    counts = {}
    for _ in range(repeats):
        for way in ways:
            began = time.perf_counter()
            counts[way] = functions[way](*data)
            seconds[way].append(time.perf_counter() - began)
    print(f"{count:>7,} {title}: ", end="")
    print(f"{counts['kernel'].sum() / count**2:.2%} of pairs similar")
    for way in ways:
        ratios = [t / ours for t, ours in zip(seconds[way], seconds["kernel"], strict=True)]
        wrong = int((counts[way] != counts["kernel"]).sum())
        print(f"    {way:14} {statistics.median(seconds[way]):8.3f} s", end="")
        print(f"   {statistics.median(ratios):6.1f} × the kernel", end="")
        print(f" ({min(ratios):.1f} to {max(ratios):.1f}); {wrong} counts differ")


def measure_windows(count: int, vocabulary: int, templates: float, repeats: int) -> None:
    """Windows of a corpus."""
    title = f"windows, {vocabulary:,} types, {templates:.0%} from templates"
    measure(title, corpus(count, vocabulary, templates), WAYS, repeats)


def conditions() -> str:
    """Machine, versions, date."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.machine()
    versions = ", ".join(f"{m.__name__} {m.__version__}" for m in (np, numba, scipy, torch))
    load = os.getloadavg()[0]
    return (
        f"{name}, {CORES} cores, load {load:.1f} before; Python {platform.python_version()}, "
        f"{versions}; {datetime.date.today()}"
    )


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[5_000, 10_000, 20_000, 60_000])
    parser.add_argument("--corpora-size", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sketches", action="store_true")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message="Sparse", category=UserWarning)
    torch.set_num_threads(CORES)
    print(conditions())
    for way in SKETCH_WAYS.values():
        way(*sketch_corpus(2_000))
    for size in options.sizes:
        measure("sketches", sketch_corpus(size), SKETCH_WAYS, options.repeats)
    if options.sketches:
        return
    for way in WAYS.values():
        way(*corpus(2_000, 500, 0.3))
    for size in options.sizes:
        measure_windows(size, *CORPORA[0], options.repeats)
    for case in CORPORA[1:]:
        measure_windows(options.corpora_size, *case, options.repeats)


if __name__ == "__main__":
    main()
