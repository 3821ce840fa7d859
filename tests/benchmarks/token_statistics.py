"""What token statistics cost beside the plain loss, as ratios in one run.

    python tests/benchmarks/token_statistics.py [--rows 512] [--vocabulary 151936] [--threads 2]

Three ratios, each the median over interleaved pairs (plain, ours, plain, ours, ...):

- logits: every column, against the exact reverse KL alone, computed plainly from the same logits
  (in float32, as ours is);
- loss: only the `loss` column, against the same;
- hidden: every column from hidden states and heads, against projecting both and the plain KL.

and the growth of the process's peak memory over each first call, against the promised bound.
"""

from __future__ import annotations

import argparse
import platform
import resource
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from rocktok.hooks.statistics import token_statistics
from rocktok.hooks.tiles import TILE_ROWS

MIB = 1 << 20


@torch.no_grad()
def plain_loss(student_NV: Tensor, teacher_NV: Tensor) -> Tensor:
    """Reverse KL as a training step would write it: each log-softmax once."""
    logp_NV = torch.log_softmax(student_NV, -1)
    logq_NV = torch.log_softmax(teacher_NV, -1)
    return (logp_NV.exp() * (logp_NV - logq_NV)).sum(-1)


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def paired(
    name: str, plain: Callable[[], object], ours: Callable[[], object], repetitions: int
) -> None:
    """Print the ratio ours / plain over interleaved pairs, after one of each to warm up."""
    plain()
    ours()
    times = [(seconds(plain), seconds(ours)) for _ in range(repetitions)]
    ratios = sorted(mine / theirs for theirs, mine in times)
    theirs, mine = (statistics.median(column) for column in zip(*times, strict=True))
    print(
        f"{name:8} ratio {statistics.median(ratios):.2f} (min {ratios[0]:.2f}, max "
        f"{ratios[-1]:.2f}, {repetitions} pairs); plain {theirs:.3f} s, ours {mine:.3f} s"
    )


def extra_memory(name: str, call: Callable[[], object], vocabulary: int) -> None:
    """Print how far the call raises the process's peak resident memory. Run it before all else."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    call()
    growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    bound = 2 * TILE_ROWS * vocabulary * 4
    print(f"{name:8} extra memory {growth / MIB:.0f} MiB of {bound / MIB:.0f} MiB promised")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--dtype", default="float32", help="of logits, hidden states and heads")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--only", nargs="+", default=["logits", "loss", "hidden"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(
        f"torch {torch.__version__}, {platform.machine()}, {options.threads} threads, "
        f"{torch.backends.cpu.get_cpu_capability()}; rows {options.rows}, vocabulary "
        f"{options.vocabulary}, hidden {options.hidden}, {options.dtype}, seed 0"
    )
    dtype = getattr(torch, options.dtype)
    torch.manual_seed(0)
    shape = options.rows, options.vocabulary
    token_ids = torch.randint(options.vocabulary, (options.rows,))
    hidden = torch.randn(options.rows, options.hidden).to(dtype)
    heads = options.vocabulary, options.hidden
    # Filled in place: a temporary would raise the peak that extra_memory measures from.
    student_head = torch.empty(heads, dtype=dtype).normal_(0, 0.1)
    teacher_head = torch.empty(heads, dtype=dtype).normal_(0, 0.1)
    student = torch.empty(shape, dtype=dtype).normal_(0, 3)
    teacher = torch.empty(shape, dtype=dtype).normal_(0, 3)

    def from_logits(columns: tuple[str, ...] | None = None) -> object:
        return token_statistics(
            token_ids=token_ids, student_logits=student, teacher_logits=teacher, columns=columns
        )

    def from_hidden() -> object:
        return token_statistics(
            token_ids=token_ids,
            student_hidden=hidden,
            teacher_hidden=hidden,
            student_head=student_head,
            teacher_head=teacher_head,
        )

    def projected() -> Tensor:
        weights = student_head.float(), teacher_head.float()
        return plain_loss(*(hidden.float() @ weight.T for weight in weights))

    def plain() -> Tensor:
        return plain_loss(student.float(), teacher.float())

    pairs = {
        "logits": (plain, from_logits),
        "loss": (plain, lambda: from_logits(("loss",))),
        "hidden": (projected, from_hidden),
    }
    for name in options.only:
        extra_memory(name, pairs[name][1], options.vocabulary)
    for name in options.only:
        paired(name, *pairs[name], options.repetitions)


if __name__ == "__main__":
    main()
