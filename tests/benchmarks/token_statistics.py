"""What token statistics cost beside the plain loss, as ratios in one run.

    python tests/benchmarks/token_statistics.py [--rows 512] [--vocabulary 151936] [--threads 2]
    python tests/benchmarks/token_statistics.py --device cuda [--rows 4096] [--dtype bfloat16]

Three ratios, each the median over interleaved pairs (plain, ours, plain, ours, ...):

- logits: every column, against the exact reverse KL alone, computed plainly from the same logits
  (in float32, as ours is);
- loss: only the `loss` column, against the same;
- hidden: every column from hidden states and heads, against projecting both and the plain KL.

and the growth of the process's peak memory over each first call, against the promised bound.

`--only lenses` gives what the default columns and those of the lenses cost beside the exact reverse
KL alone, computed plainly in float32 and in the logits' dtype: ratios within rounds, in processor
time and by the clock.

`--only presets` and `--only heads` give what sets of columns cost, from logits and from hidden
states and heads, in processor time and by the clock: medians of the ratios, within rounds, to the
default columns by PyTorch's own operations.

On CUDA, every column from logits against the same plain loss, in float32 and in the logits' dtype,
and against the floor: the time that the card's copy bandwidth needs for the bytes of both models'
logits, once and twice (the kernel reads them twice). All of it in interleaved rounds. And what the
kernel gave, on some rows, against float64 on the CPU.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from rocktok.hooks.statistics import compiled, fused, token_statistics
from rocktok.hooks.statistics.tiles import TILE_ROWS, Model

MIB = 1 << 20
GIB = 1 << 30


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


DEFAULT = (
    "student_logprob",
    "teacher_logprob",
    "student_entropy",
    "teacher_entropy",
    "grad_norm",
)
LENSES = (
    *DEFAULT,
    "jsd",
    "overlap",
    "student_mass",
    "teacher_mass",
    "teachability",
    "student_end",
    "teacher_end",
)


def presets(name: str, arguments: dict[str, Any], repetitions: int) -> None:
    """Print what sets of columns cost beside the default ones by PyTorch's operations."""

    def ours(columns: tuple[str, ...] | None, count: int = 0) -> Callable[[], object]:
        return lambda: token_statistics(
            **arguments, columns=columns, terminal_ids=(5, 7), alternatives=count
        )

    def operations() -> object:
        with patch.object(compiled, "usable", lambda *_: False):
            return ours(DEFAULT)()

    calls: dict[str, Callable[[], object]] = {
        "operations": operations,
        "default": ours(DEFAULT),
        "lenses": ours(LENSES),
        "lenses, 5 alternatives": ours(LENSES, 5),
        "all": ours(None),
        "all, 5 alternatives": ours(None, 5),
    }
    times = rounds(calls, repetitions)
    for key in calls:
        pairs = list(zip(times[key], times["operations"], strict=True))
        processor, clock = (statistics.median(a[i] / b[i] for a, b in pairs) for i in (0, 1))
        print(f"{name:8} {key:24} processor {processor:.2f}, clock {clock:.2f}")


def beside_plain(
    student_NV: Tensor, teacher_NV: Tensor, token_ids: Tensor, repetitions: int
) -> None:
    """Print what columns cost beside the plain loss from the same logits."""

    def ours(columns: tuple[str, ...]) -> Callable[[], object]:
        return lambda: token_statistics(
            token_ids=token_ids,
            student_logits=student_NV,
            teacher_logits=teacher_NV,
            columns=columns,
            terminal_ids=(5, 7),
        )

    plain: dict[str, Callable[[], object]] = {
        "float32": lambda: plain_loss(student_NV.float(), teacher_NV.float())
    }
    if student_NV.dtype != torch.float32:
        plain[str(student_NV.dtype).removeprefix("torch.")] = lambda: plain_loss(
            student_NV, teacher_NV
        )
    columns = {"default": ours(DEFAULT), "lenses": ours(LENSES)}
    times = rounds({**plain, **columns}, repetitions)
    for name in columns:
        for base in plain:
            print(f"{name:8} / plain in {base}: {ratios(times[name], times[base])}")


def rounds(
    calls: dict[str, Callable[[], object]], repetitions: int
) -> dict[str, list[tuple[float, float]]]:
    """Name → (processor, clock) seconds of each round; a round makes every call, after a first."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for number in range(repetitions + 1):
        for name, call in calls.items():
            clock, processor = time.perf_counter(), time.process_time()
            call()
            spent = time.process_time() - processor, time.perf_counter() - clock
            if number:  # the first warms up
                times[name].append(spent)
    return times


def ratios(ours: list[tuple[float, float]], base: list[tuple[float, float]]) -> str:
    """Medians of the ratios within rounds, with the least and the most."""
    parts = []
    for number, kind in enumerate(("processor", "clock")):
        of_kind = sorted(a[number] / b[number] for a, b in zip(ours, base, strict=True))
        middle = statistics.median(of_kind)
        parts.append(f"{kind} {middle:.2f} ({of_kind[0]:.2f} to {of_kind[-1]:.2f})")
    return ", ".join(parts)


def extra_memory(name: str, call: Callable[[], object], vocabulary: int) -> None:
    """Print how far the call raises the process's peak resident memory. Run it before all else."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    call()
    growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    bound = 2 * TILE_ROWS * vocabulary * 4
    print(f"{name:8} extra memory {growth / MIB:.0f} MiB of {bound / MIB:.0f} MiB promised")


def card_seconds(call: Callable[[], object]) -> float:
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    stop.record()
    stop.synchronize()
    return start.elapsed_time(stop) / 1000


def errors(student_NV: Tensor, teacher_NV: Tensor, got: dict[str, Tensor], rows: int) -> str:
    """The largest relative errors of the first rows' losses and norms, against float64."""
    logp_NV, logq_NV = (
        torch.log_softmax(logits_NV[:rows].cpu().double(), -1)
        for logits_NV in (student_NV, teacher_NV)
    )
    ratio_NV = logp_NV - logq_NV
    loss_N = (logp_NV.exp() * ratio_NV).sum(-1)
    expected = {
        "loss": loss_N,
        "grad_norm": (logp_NV.exp() * (ratio_NV - loss_N.unsqueeze(-1))).norm(dim=-1),
    }
    return ", ".join(
        f"{name} {(got[name][:rows].cpu().double() / values_N - 1).abs().max():.1e}"
        for name, values_N in expected.items()
    )


def triton_version() -> str:
    try:
        return importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def on_card(options: argparse.Namespace) -> None:
    """Print the times and ratios of the kernel, the plain loss and the floor."""
    dtype = getattr(torch, options.dtype)
    major, minor = torch.cuda.get_device_capability()
    print(
        f"{torch.cuda.get_device_name()} (sm_{major}{minor}), CUDA {torch.version.cuda}, torch "
        f"{torch.__version__}, triton {triton_version()}; rows {options.rows}, vocabulary "
        f"{options.vocabulary}, {options.dtype}, seed 0, {options.repetitions} rounds"
    )
    torch.manual_seed(0)
    shape = options.rows, options.vocabulary
    student = torch.empty(shape, dtype=dtype, device="cuda").normal_(0, 3)
    # Near the student, as a teacher is: the log-ratios then take both ways through the kernel.
    teacher = torch.empty(shape, dtype=dtype, device="cuda").normal_(0, 0.3).add_(student)
    token_ids = torch.randint(options.vocabulary, shape[:1], device="cuda")
    source = torch.empty(GIB, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)

    def ours() -> dict[str, Tensor]:
        return token_statistics(token_ids=token_ids, student_logits=student, teacher_logits=teacher)

    calls: dict[str, Callable[[], object]] = {
        "copy": lambda: target.copy_(source),
        "ours": ours,
        "plain float32": lambda: plain_loss(student.float(), teacher.float()),
        f"plain {options.dtype}": lambda: plain_loss(student, teacher),
    }
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    got = ours()
    extra = torch.cuda.max_memory_allocated() - before
    # Said after the first call, which is when a kernel that cannot be built is given up.
    model = Model(student, None, None, None, 1.0, None)
    print("by the Triton kernel" if fused.usable(model) else "by the tiles, NOT by the kernel")
    print(f"ours: extra memory {extra / MIB:.1f} MiB; largest relative errors of 8 rows: ", end="")
    print(errors(student, teacher, got, 8))
    for name in list(calls):
        try:
            calls[name]()
        except torch.OutOfMemoryError:
            print(f"{name}: does not fit this card")
            del calls[name]
    rounds = [
        {name: card_seconds(call) for name, call in calls.items()}
        for _ in range(options.repetitions)
    ]
    times = {name: statistics.median(times[name] for times in rounds) for name in calls}
    bandwidth = 2 * GIB / times["copy"]
    once = 2 * student.numel() * student.element_size() / bandwidth
    print(f"copy bandwidth {bandwidth / 1e9:.0f} GB/s, reads and writes together")
    print(f"ours {times['ours'] * 1e3:.3f} ms")
    for count, word in ((1, "once"), (2, "twice")):
        share = count * once / times["ours"]
        print(f"floor, logits read {word}: {count * once * 1e3:.3f} ms, {share:.0%} of its speed")
    for name in [name for name in calls if name.startswith("plain")]:
        ratios = sorted(times["ours"] / times[name] for times in rounds)
        print(
            f"{name} {times[name] * 1e3:.3f} ms; ours / plain {statistics.median(ratios):.2f} "
            f"(min {ratios[0]:.2f}, max {ratios[-1]:.2f})"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rows", type=int, help="default 512, on CUDA 4096")
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument(
        "--dtype", help="of logits, hidden states and heads; default float32, on CUDA bfloat16"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--only", nargs="+", default=["logits", "loss", "hidden"])
    options = parser.parse_args()
    cuda = options.device == "cuda"
    options.rows = options.rows or (4096 if cuda else 512)
    options.dtype = options.dtype or ("bfloat16" if cuda else "float32")
    if cuda:
        if not torch.cuda.is_available():
            parser.error("there is no CUDA device here")
        on_card(options)
        return
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
            token_ids=token_ids,
            student_logits=student,
            teacher_logits=teacher,
            columns=columns,
            terminal_ids=(5, 7),
        )

    def from_hidden() -> object:
        return token_statistics(
            token_ids=token_ids,
            student_hidden=hidden,
            teacher_hidden=hidden,
            student_head=student_head,
            teacher_head=teacher_head,
            terminal_ids=(5, 7),
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
    given = {
        "presets": {"student_logits": student, "teacher_logits": teacher},
        "heads": {
            "student_hidden": hidden,
            "teacher_hidden": hidden,
            "student_head": student_head,
            "teacher_head": teacher_head,
        },
    }
    if "lenses" in options.only:
        beside_plain(student, teacher, token_ids, options.repetitions)
        options.only.remove("lenses")
    for name in [name for name in options.only if name in given]:
        presets(name, {"token_ids": token_ids, **given[name]}, options.repetitions)
        options.only.remove(name)
    for name in options.only:
        extra_memory(name, pairs[name][1], options.vocabulary)
    for name in options.only:
        paired(name, *pairs[name], options.repetitions)


if __name__ == "__main__":
    main()
