"""Token statistics against values worked out by hand, float64, and autograd.

Shape suffixes: N positions, V vocabulary, H hidden size; B sequences of K tokens.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import pytest

torch = pytest.importorskip("torch")

import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rocktok.hooks.statistics import COLUMNS, tiles, token_statistics
from rocktok.schema import TOP_K

LARGE = 151_936
INF = math.inf


def final(raw: Tensor, scale: float, softcap: float | None, temperature: float) -> Tensor:
    """The definition, in whatever dtype it is given."""
    logits = raw * scale
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return logits / temperature


ENDS = (3, 0)
ALTERNATIVES = ("student_ids", "student_probs", "teacher_ids", "teacher_probs")


def largest(values_NV: Tensor, count: int) -> Tensor:
    """Ids of the largest, largest first, of equal ones the smaller: from a stable sort."""
    return values_NV.sort(dim=-1, descending=True, stable=True).indices[:, :count]


def reference(
    student_NV: Tensor, teacher_NV: Tensor, token_N: Tensor, ends: Sequence[int] = ()
) -> dict[str, Tensor]:
    """Everything from final logits, in float64, straight from the definitions."""
    logp = torch.log_softmax(student_NV.double(), -1)
    logq = torch.log_softmax(teacher_NV.double(), -1)
    p, q = logp.exp(), logq.exp()
    ratio = logp - logq
    loss = (p * ratio).sum(-1)
    at = token_N.unsqueeze(-1)
    mean = torch.logaddexp(logp, logq) - math.log(2)
    of_p, of_q = (largest(values, TOP_K) for values in (student_NV, teacher_NV))
    both = (of_p.unsqueeze(2) == of_q.unsqueeze(1)).double()
    in_both = both.sum(2), both.sum(1)
    own = teacher_NV.gather(1, at)
    before = torch.arange(teacher_NV.shape[1]) < at
    result = {
        "loss": loss,
        "log_ratio": ratio.gather(-1, at).squeeze(-1),
        "student_logprob": logp.gather(-1, at).squeeze(-1),
        "teacher_logprob": logq.gather(-1, at).squeeze(-1),
        "student_entropy": -(p * logp).sum(-1),
        "teacher_entropy": -(q * logq).sum(-1),
        "grad_norm": (p * (ratio - loss.unsqueeze(-1))).norm(dim=-1),
        "forward_kl": -(q * ratio).sum(-1),
        "jsd": (p * (logp - mean) + q * (logq - mean)).sum(-1) / 2,
        "overlap": in_both[0].mean(-1),
        "student_mass": (p.gather(1, of_p) * in_both[0]).sum(-1),
        "teacher_mass": (q.gather(1, of_q) * in_both[1]).sum(-1),
        "teachability": q.gather(1, of_p).sum(-1),
        "teacher_rank": 1 + ((teacher_NV > own) | (before & (teacher_NV == own))).sum(-1),
    }
    if ends:
        result |= {"student_end": p[:, ends].sum(-1), "teacher_end": q[:, ends].sum(-1)}
    return result


def assert_close(
    got: dict[str, Tensor],
    expected: dict[str, Tensor],
    relative: float = 1e-5,
    absolute: float = 2e-6,
) -> None:
    for name, values in expected.items():
        exact = name == "teacher_rank" or name.endswith("_ids")
        assert got[name].dtype == (torch.int32 if exact else torch.float32), name
        ours, theirs = got[name].double(), values.double()
        torch.testing.assert_close(
            ours,
            theirs,
            rtol=0 if exact else relative,
            atol=0 if exact else absolute,
            msg=lambda text, name=name: f"{name} differs: {text}",
        )


def from_logits(student: Tensor, teacher: Tensor, tokens: Tensor, **more: Any) -> dict[str, Tensor]:
    return token_statistics(
        token_ids=tokens, student_logits=student, teacher_logits=teacher, **more
    )


# ---------------------------------------------------------------------------- by hand


def test_a_case_by_hand() -> None:
    p, q = torch.tensor([[0.5, 0.25, 0.25]]), torch.tensor([[0.25, 0.25, 0.5]])
    got = from_logits(p.log(), q.log(), torch.tensor([2]))
    log2 = math.log(2)
    # p·log p/q: 0.5·log 2, 0, -0.25·log 2
    loss = 0.25 * log2
    gradient = 0.5 * (log2 - loss), 0.25 * -loss, 0.25 * (-log2 - loss)
    expected = {
        "loss": loss,
        "log_ratio": -log2,
        "student_logprob": -2 * log2,
        "teacher_logprob": -log2,
        "student_entropy": 1.5 * log2,
        "teacher_entropy": 1.5 * log2,
        "grad_norm": math.hypot(*gradient),
        "forward_kl": loss,
        # m is 3/8, 1/4, 3/8.
        "jsd": 0.5 * math.log(4 / 3) + 0.25 * math.log(2 / 3),
        "overlap": 1.0,
        "student_mass": 1.0,
        "teacher_mass": 1.0,
        "teachability": 1.0,
        "teacher_rank": 1,
    }
    assert list(got) == list(expected)
    for name, value in expected.items():
        assert got[name].item() == pytest.approx(value, abs=1e-7), name


def test_equal_models_lose_nothing() -> None:
    logits = torch.randn(5, 100)
    got = from_logits(logits, logits.clone(), torch.zeros(5, dtype=torch.long))
    for name in ("loss", "log_ratio", "grad_norm"):
        assert not got[name].any(), name


def test_temperature_scale_and_cap_by_hand() -> None:
    student, teacher = torch.tensor([[3.0, -1.0]]), torch.tensor([[0.5, 2.0]])
    got = from_logits(
        student,
        teacher,
        torch.tensor([0]),
        temperature=2.0,
        student_logit_scale=0.5,
        student_softcap=4.0,
        teacher_logit_scale=3.0,
    )
    z = [4 * math.tanh(0.5 * raw / 4) / 2 for raw in (3.0, -1.0)]
    p = 1 / (1 + math.exp(z[1] - z[0]))
    q = 1 / (1 + math.exp(3.0 * 1.5 / 2))
    loss = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    slopes = [0.5 * (1 - math.tanh(0.5 * raw / 4) ** 2) / 2 for raw in (3.0, -1.0)]
    inner = p * (math.log(p / q) - loss), (1 - p) * (math.log((1 - p) / (1 - q)) - loss)
    norm = math.hypot(*(g * slope for g, slope in zip(inner, slopes, strict=True)))
    assert got["loss"].item() == pytest.approx(loss, rel=1e-6)
    assert got["grad_norm"].item() == pytest.approx(norm, rel=1e-6)


# ---------------------------------------------------------------------------- accuracy


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("spread", [0.5, 3.0, 20.0])
@pytest.mark.parametrize("distance", [1.5e-3, 0.03, 1.0, 5.0])
def test_accuracy_over_a_large_vocabulary(
    dtype: torch.dtype, spread: float, distance: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(4, LARGE, generator=generator) * spread
    teacher = student + torch.randn(4, LARGE, generator=generator) * distance + 7.3
    student, teacher = student.to(dtype), teacher.to(dtype)
    tokens = student.float().argmax(-1)
    expected = reference(student, teacher, tokens)
    got = from_logits(student, teacher, tokens)
    assert_close(got, expected)
    for name in ("loss", "grad_norm", "forward_kl", "jsd"):
        relevant = expected[name] > (1e-5 if name == "grad_norm" else 1e-6)
        error = (got[name].double() / expected[name] - 1).abs()[relevant]
        assert not len(error) or error.max() < 1e-4, name


@pytest.mark.parametrize("target", [1e-6, 1e-4, 1e-2, 1.0, 20.0])
def test_losses_from_tiny_to_large(target: float) -> None:
    generator = torch.Generator().manual_seed(1)
    student = torch.randn(3, 5000, generator=generator)
    noise = torch.randn(3, 5000, generator=generator)
    low, high = 0.0, 100.0
    logp = student.double().log_softmax(-1)
    for _ in range(60):  # the loss rises with the noise
        middle = (low + high) / 2
        logq = (student + middle * noise).double().log_softmax(-1)
        loss = (logp.exp() * (logp - logq)).sum(-1).mean()
        low, high = (middle, high) if loss < target else (low, middle)
    teacher = student + low * noise
    tokens = torch.zeros(3, dtype=torch.long)
    got, expected = from_logits(student, teacher, tokens), reference(student, teacher, tokens)
    for name in ("loss", "grad_norm", "forward_kl", "jsd"):
        torch.testing.assert_close(got[name].double(), expected[name], rtol=1e-4, atol=0)


@pytest.mark.parametrize("gap", [5.0, 12.0, 20.0, 25.0])
def test_an_all_but_certain_student_over_a_long_tail(gap: float) -> None:
    """Float32 softmaxes lose the tail here, and the gradient is far smaller than the loss."""
    generator = torch.Generator().manual_seed(2)
    student, teacher = (torch.randn(2, LARGE, generator=generator) for _ in "st")
    student[:, 0] = student.max() + gap
    teacher[:, 1] = teacher.max() + 5
    tokens = torch.tensor([0, 5])
    got, expected = from_logits(student, teacher, tokens), reference(student, teacher, tokens)
    assert expected["grad_norm"].min() < 2e-6 or gap < 25
    assert_close(got, expected)
    torch.testing.assert_close(got["grad_norm"].double(), expected["grad_norm"], rtol=1e-5, atol=0)


def test_logits_of_80_stay_finite() -> None:
    student = torch.full((2, LARGE), -80.0)
    student[0, 3] = student[1, 4] = 80.0
    teacher = -student
    got = from_logits(student, teacher, torch.tensor([3, 0]))
    assert all(values.isfinite().all() for values in got.values())
    # q is uniform but for one entry, where it is exp(-160) as likely.
    assert got["loss"].tolist() == pytest.approx([160 + math.log(LARGE - 1)] * 2, rel=1e-5)
    assert_close(got, reference(student, teacher, torch.tensor([3, 0])))


def test_float64_and_half_inputs_give_float32() -> None:
    student, teacher = torch.randn(3, 40), torch.randn(3, 40)
    tokens = torch.tensor([1, 2, 39])
    expected = reference(student, teacher, tokens)
    assert_close(from_logits(student.double(), teacher, tokens), expected)
    student, teacher = student.half(), teacher.half()
    assert_close(from_logits(student, teacher, tokens), reference(student, teacher, tokens))


# ---------------------------------------------------------------------------- excluded tokens


def test_minus_infinity() -> None:
    base = torch.tensor([0.3, -1.0, 2.0, 0.0])
    student, teacher = base.repeat(5, 1), base.flip(0).repeat(5, 1)
    student[1, 0] = -INF  # p = 0
    teacher[2, 0] = -INF  # q = 0 where p > 0
    student[3, 0] = teacher[3, 0] = -INF  # both
    student[4, 1] = teacher[4, 0] = -INF
    got = from_logits(student, teacher, torch.tensor([1, 0, 0, 1, 2]))
    expected = reference(student[:1], teacher[:1], torch.tensor([1]))
    assert_close({name: values[:1] for name, values in got.items()}, expected)
    assert got["loss"].isinf().tolist() == [False, False, True, False, True]
    assert got["grad_norm"].isinf().tolist() == [False, False, True, False, True]
    # Row 1: the sum over what is left of p.
    p, q = torch.softmax(student[1].double(), -1)[1:], torch.softmax(teacher[1].double(), -1)[1:]
    assert got["loss"][1].item() == pytest.approx((p * (p / q).log()).sum().item(), rel=1e-6)
    # Row 3: as if the token did not exist.
    shorter = reference(student[3:4, 1:], teacher[3:4, 1:], torch.tensor([0]))
    assert_close({name: values[3:4] for name, values in got.items()}, shorter)
    assert got["student_logprob"][1] == -INF and got["teacher_logprob"][2] == -INF
    q = torch.softmax(teacher[2].double(), -1)[1:]
    assert got["teacher_entropy"][2].item() == pytest.approx(-(q * q.log()).sum().item())
    p = torch.softmax(student[4].double(), -1)[[0, 2, 3]]
    assert got["student_entropy"][4].item() == pytest.approx(-(p * p.log()).sum().item())


@pytest.mark.parametrize("low", [-math.inf, torch.finfo(torch.float32).min, -1e30, -1e9, -1e4])
def test_tokens_that_both_models_mask_count_for_nothing(low: float) -> None:
    generator = torch.Generator().manual_seed(5)
    student, teacher = (torch.randn(4, 900, generator=generator) * 3 for _ in range(2))
    tokens = torch.tensor([500, 600, 700, 800])
    expected = reference(student[:, 300:], teacher[:, 300:], tokens - 300)
    student[:, :300] = teacher[:, :300] = low
    assert_close(from_logits(student, teacher, tokens), expected)


def test_an_underflowing_student_probability_is_not_zero() -> None:
    student, teacher = torch.tensor([[0.0, -300.0]]), torch.tensor([[0.0, -INF]])
    assert from_logits(student, teacher, torch.tensor([0]))["loss"].item() == INF


def test_nan_stays_in_its_row() -> None:
    student, teacher = torch.randn(3, 50), torch.randn(3, 50)
    student[1, 7] = math.nan
    got = from_logits(student, teacher, torch.zeros(3, dtype=torch.long))
    for name, values in got.items():
        if name not in ("teacher_logprob", "teacher_entropy", "teacher_rank"):
            assert values.isnan().tolist() == [False, True, False], name


# ---------------------------------------------------------------------------- both ways, autograd


def models(seed: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Hidden states of (B, K) positions and two heads of different widths."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int, spread: float = 1.0) -> Tensor:
        return (torch.randn(shape, generator=generator) * spread).to(dtype)

    return {
        "student_hidden": normal(3, 5, 16),
        "teacher_hidden": normal(3, 5, 24),
        "student_head": normal(97, 16, spread=0.5),
        "teacher_head": normal(97, 24, spread=0.5),
        "student_bias": normal(97),
        "teacher_bias": normal(97),
    }


SHAPES: list[dict[str, float]] = [
    {},
    {"temperature": 0.7},
    {"student_logit_scale": 0.25, "teacher_logit_scale": 1.5, "temperature": 2.0},
    {"student_softcap": 3.0, "teacher_softcap": 5.0},
    {"student_softcap": 4.0, "student_logit_scale": 2.0, "temperature": 1.3},
]


@pytest.mark.parametrize("options", SHAPES, ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_gradient_norms_are_autograds(options: dict[str, float], bias: bool) -> None:
    given_ = models(3)
    if not bias:
        given_ = {name: value for name, value in given_.items() if "bias" not in name}
    tokens = torch.arange(15).reshape(3, 5)
    got = token_statistics(token_ids=tokens, **given_, **options)
    head = torch.nn.Linear(16, 97, bias=bias).double()
    other = torch.nn.Linear(24, 97, bias=bias).double()
    with torch.no_grad():
        for layer, name in ((head, "student"), (other, "teacher")):
            layer.weight.copy_(given_[f"{name}_head"])
            if bias:
                layer.bias.copy_(given_[f"{name}_bias"])
    temperature = options.get("temperature", 1.0)
    for place in range(15):
        raw = head(given_["student_hidden"].double().reshape(15, 16)[place])
        raw.retain_grad()
        student = final(
            raw,
            options.get("student_logit_scale", 1.0),
            options.get("student_softcap"),
            temperature,
        )
        teacher = final(
            other(given_["teacher_hidden"].double().reshape(15, 24)[place]).detach(),
            options.get("teacher_logit_scale", 1.0),
            options.get("teacher_softcap"),
            temperature,
        )
        logp, logq = student.log_softmax(-1), teacher.log_softmax(-1)
        loss = (logp.exp() * (logp - logq)).sum()
        head.zero_grad()
        loss.backward()
        expected = {
            "loss": loss.detach(),
            "grad_norm": raw.grad.norm(),
            "head_grad_norm": head.weight.grad.norm(),
            "log_ratio": (logp - logq)[place].detach(),
        }
        assert_close({name: values[place] for name, values in got.items()}, expected)


@pytest.mark.parametrize("options", SHAPES, ids=str)
def test_both_ways_agree(options: dict[str, float]) -> None:
    given_ = models(4)
    tokens = torch.randint(97, (3, 5))
    student, teacher = (
        given_[f"{name}_hidden"] @ given_[f"{name}_head"].T + given_[f"{name}_bias"]
        for name in ("student", "teacher")
    )
    more: dict[str, Any] = {**options, "terminal_ids": ENDS}
    projected = token_statistics(token_ids=tokens, **given_, **more)
    assert list(projected) == list(COLUMNS)
    hidden = given_["student_hidden"]
    from_raw = from_logits(student, teacher, tokens, student_hidden=hidden, **more)
    assert_close(projected, from_raw, relative=1e-4)
    # Each model may come in its own way.
    head = {name: value for name, value in given_.items() if name.startswith("student")}
    mixed = token_statistics(token_ids=tokens, **head, teacher_logits=teacher, **more)
    assert_close(mixed, projected, relative=1e-4)


def test_bf16_heads_are_projected_in_float32() -> None:
    given_ = models(5, torch.bfloat16)
    tokens = torch.randint(97, (3, 5))
    exact = {name: value.double() for name, value in given_.items()}
    expected = reference(
        *(
            (exact[f"{name}_hidden"] @ exact[f"{name}_head"].T + exact[f"{name}_bias"]).flatten(
                0, 1
            )
            for name in ("student", "teacher")
        ),
        tokens.flatten(),
    )
    with torch.autocast("cpu", torch.bfloat16), patch.object(tiles, "CPU_CHUNK_ELEMENTS", 16 * 10):
        assert_close(token_statistics(token_ids=tokens, **given_), expected)


@pytest.mark.parametrize("precision", ["ieee", "bf16"])
def test_projection_ignores_reduced_matmul_precision_and_leaves_it(precision: str) -> None:
    matmul = torch.backends.mkldnn.matmul
    if not hasattr(matmul, "fp32_precision"):
        pytest.skip("this torch has no such setting")
    before = matmul.fp32_precision
    hidden, head = torch.randn(40, 256), torch.randn(500, 256)
    try:
        matmul.fp32_precision = precision
        got = tiles.project(hidden, head, None)
        assert matmul.fp32_precision == precision
    finally:
        matmul.fp32_precision = before
    assert (got.double() - hidden.double() @ head.double().T).abs().max() < 1e-4


def test_older_torch_keeps_its_matmul_precision() -> None:
    class Old:
        pass

    with (
        patch.object(torch.backends.cuda, "matmul", Old()),
        patch.object(torch, "get_float32_matmul_precision", lambda: "high"),
        patch.object(torch, "set_float32_matmul_precision") as set_precision,
        tiles.full_float32(),
    ):
        set_precision.assert_called_once_with("highest")
    set_precision.assert_called_with("high")


# ---------------------------------------------------------------------------- masks and layouts


def test_mask_picks_positions_in_row_major_order() -> None:
    given_ = models(6)
    tokens = torch.randint(97, (3, 5))
    every = token_statistics(token_ids=tokens, **given_, terminal_ids=ENDS)
    mask = torch.tensor([[0, 1, 1, 0, 0], [0, 0, 0, 0, 0], [2, 0, 0, -1, 1]])
    labels = torch.where(mask != 0, tokens, -100)
    for form in (mask, mask.bool(), mask.float()):
        some = token_statistics(token_ids=labels, **given_, mask=form, terminal_ids=ENDS)
        assert_close(some, {name: every[name][mask.flatten() != 0] for name in COLUMNS})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_that_are_slices_of_longer_ones(dtype: torch.dtype) -> None:
    student, teacher = torch.randn(2, 7, 50).to(dtype), torch.randn(2, 7, 50).to(dtype)
    tokens = torch.randint(50, (2, 6))
    mask = torch.rand(2, 6) < 0.6
    whole = from_logits(student[:, :-1].clone(), teacher[:, :-1].clone(), tokens, mask=mask)
    sliced = from_logits(student[:, :-1], teacher[:, :-1], tokens, mask=mask)
    unmasked = from_logits(student[:, :-1], teacher[:, :-1], tokens)
    assert_close(sliced, whole)
    assert_close(whole, {name: values[mask.flatten()] for name, values in unmasked.items()})


def test_nothing_scored_gives_empty_columns() -> None:
    given_ = models(7)
    tokens = torch.full((3, 5), -100)
    none_scored = torch.zeros(3, 5)
    got = token_statistics(
        token_ids=tokens, **given_, mask=none_scored, terminal_ids=ENDS, alternatives=4
    )
    assert list(got) == [*COLUMNS, *ALTERNATIVES]
    assert all(got.pop(name).shape == (0, 4) for name in ALTERNATIVES)
    none = torch.zeros(0, dtype=torch.long)
    also = from_logits(torch.zeros(0, 9), torch.zeros(0, 9), none, student_softcap=2.0)
    for values in (*got.values(), *also.values()):
        assert values.shape == (0,) and values.dtype in (torch.float32, torch.int32)


def test_columns_are_those_asked_for() -> None:
    given_: dict[str, Any] = dict(models(8))
    tokens = torch.randint(97, (3, 5))
    given_["terminal_ids"] = ENDS
    every = token_statistics(token_ids=tokens, **given_)
    for name in COLUMNS:
        got = token_statistics(token_ids=tokens, **given_, columns=[name])
        assert set(got) == {"loss", name}
        assert_close(got, {column: every[column] for column in got})
    assert set(token_statistics(token_ids=tokens, **given_, columns=())) == {"loss"}


def test_inputs_and_settings_stay_as_they_are() -> None:
    student = torch.randn(40, 200, requires_grad=True)
    teacher = torch.randn(40, 200)
    teacher[3, 5] = -INF
    before = student.detach().clone(), teacher.clone()
    seen: list[int] = []
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with patch.object(tiles, "CPU_BLOCK_ELEMENTS", 1):
            got = from_logits(student, teacher, torch.zeros(40, dtype=torch.long))
        later = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        later.start()
        later.join()
        assert [torch.get_num_threads(), *seen] == [2, 2]
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(student, before[0]) and torch.equal(teacher, before[1])
    assert student.grad is None and not any(values.requires_grad for values in got.values())
    assert torch.is_grad_enabled()


def test_an_error_in_a_worker_arrives() -> None:
    def worker() -> Callable[[int, int], int]:
        return lambda first, last: 1 // (first - 4)

    with pytest.raises(ZeroDivisionError):
        tiles.each_block(worker, [(first, first + 1) for first in range(8)], 2)
    assert tiles.each_block(worker, [(5, 6), (3, 4)], 2) == [1, -1]


@pytest.fixture
def one_process() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_available(), reason="torch without torch.distributed")
def test_sharded_heads_are_gathered_once(one_process: None) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Shard, distribute_tensor

    given_ = models(9)
    tokens = torch.randint(97, (3, 5))
    mesh = init_device_mesh("cpu", (1,))
    sharded = {
        name: distribute_tensor(value, mesh, [Shard(0)]) if "head" in name else value
        for name, value in given_.items()
    }
    full_tensor = DTensor.full_tensor
    with patch.object(DTensor, "full_tensor", autospec=True, side_effect=full_tensor) as gather:
        got = token_statistics(token_ids=tokens, **sharded)
    assert gather.call_count == 2
    assert_close(got, token_statistics(token_ids=tokens, **given_))


# ---------------------------------------------------------------------------- memory


def peak_bytes(call: Callable[[], object]) -> int:
    """Most bytes that PyTorch's CPU allocator held for `call` at any moment, on this thread."""
    from torch._C._profiler import _EventType
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recording:
        call()
    assert recording.profiler is not None and recording.profiler.kineto_results is not None
    events = []
    waiting = list(recording.profiler.kineto_results.experimental_event_tree())
    while waiting:
        event = waiting.pop()
        waiting += event.children
        if event.tag == _EventType.Allocation:
            events.append((event.start_time_ns, event.extra_fields.alloc_size))
    held = peak = 0
    for _, size in sorted(events):
        held += size
        peak = max(peak, held)
    assert peak, "the profiler saw nothing"
    return peak


@pytest.mark.parametrize("way", ["logits", "hidden"])
@pytest.mark.parametrize("excluded", [False, True])
def test_extra_memory_is_under_two_tiles(way: str, excluded: bool) -> None:
    vocabulary, size, count = 2000, 320, 1200
    teacher_bias = torch.zeros(vocabulary)
    if excluded:
        teacher_bias[7] = -INF
    tokens = torch.zeros(count, dtype=torch.long)
    mask = torch.rand(count) < 0.9
    options: dict[str, Any] = {"student_softcap": 20.0, "temperature": 0.9, "mask": mask}
    if way == "logits":
        arguments = {
            "student_logits": torch.randn(count, vocabulary).bfloat16(),
            "teacher_logits": torch.randn(count, vocabulary).bfloat16() + teacher_bias.bfloat16(),
        }
    else:
        arguments = {
            "student_hidden": torch.randn(count, size).bfloat16(),
            "teacher_hidden": torch.randn(count, size).bfloat16(),
            "student_head": torch.randn(vocabulary, size).bfloat16(),
            "teacher_head": torch.randn(vocabulary, size).bfloat16(),
            "teacher_bias": teacher_bias,
        }
    threads = torch.get_num_threads()
    try:
        # One worker, whose blocks are then as large as all workers' together may ever be.
        torch.set_num_threads(1)
        assert tiles.block_rows(vocabulary, torch.device("cpu")) == tiles.MOST_BLOCK_ROWS
        used = peak_bytes(lambda: token_statistics(token_ids=tokens, **arguments, **options))
    finally:
        torch.set_num_threads(threads)
    assert used < 2 * tiles.TILE_ROWS * vocabulary * 4


@pytest.mark.parametrize("vocabulary", [2, 1000, 32_000, LARGE])
@pytest.mark.parametrize("threads", [1, 2, 7, 16, 200])
def test_rows_in_work_are_bounded_for_any_number_of_threads(vocabulary: int, threads: int) -> None:
    cpu = torch.device("cpu")
    with patch.object(torch, "get_num_threads", lambda: threads):
        rows = tiles.workers(cpu) * tiles.block_rows(vocabulary, cpu)
    assert 1 <= rows <= tiles.MOST_BLOCK_ROWS


# ---------------------------------------------------------------------------- errors


def test_errors() -> None:
    given_ = models(10)
    tokens = torch.randint(97, (3, 5))
    logits = torch.randn(3, 5, 97)

    def refuses(message: str, **changes: Any) -> None:
        arguments: dict[str, Any] = {"token_ids": tokens, **given_, **changes}
        arguments = {name: value for name, value in arguments.items() if value is not None}
        with pytest.raises(ValueError, match=message):
            token_statistics(**arguments)

    refuses("give student_logits, or student_hidden and student_head", student_hidden=None)
    refuses("give teacher_logits, or teacher_hidden and teacher_head", teacher_head=None)
    refuses("student_logits or student_head, not both", student_logits=logits)
    refuses(
        "teacher_hidden has no use", teacher_logits=logits, teacher_head=None, teacher_bias=None
    )
    refuses(r"student_hidden has shape \(3, 4, 16\)", student_hidden=torch.randn(3, 4, 16))
    refuses(r"teacher_head has shape \(97, 23\)", teacher_head=torch.randn(97, 23))
    refuses(r"student_bias has shape \(96,\)", student_bias=torch.randn(96))
    refuses("student_hidden has dtype torch.int64", student_hidden=torch.ones(3, 5, 16).long())
    refuses(
        "the student's vocabulary has 90 entries, the teacher's 97",
        student_head=torch.randn(90, 16),
        student_bias=None,
    )
    refuses(r"mask has shape \(5, 3\)", mask=torch.ones(5, 3))
    refuses("token id 97 .* vocabulary of 97", token_ids=torch.full((3, 5), 97))
    refuses("token id -100", token_ids=torch.full((3, 5), -100))
    refuses("token_ids has dtype torch.float32", token_ids=torch.ones(3, 5))
    refuses("no such column: kl", columns=["loss", "kl"])
    for value in (0.0, -1.0, math.nan, INF):
        refuses(f"temperature is {value}; it must be positive", temperature=value)
        refuses(f"teacher_softcap is {value}", teacher_softcap=value)
        refuses(f"student_logit_scale is {value}", student_logit_scale=value)


def test_errors_of_logits() -> None:
    logits, tokens = torch.randn(4, 9), torch.zeros(4, dtype=torch.long)
    with pytest.raises(ValueError, match="head_grad_norm needs student_hidden"):
        from_logits(logits, logits, tokens, columns=["head_grad_norm"])
    with pytest.raises(ValueError, match="give student_logits"):
        token_statistics(token_ids=tokens, teacher_logits=logits)
    with pytest.raises(ValueError, match="student_logits or student_head, not both"):
        from_logits(logits, logits, tokens, student_bias=torch.zeros(9))
    with pytest.raises(ValueError, match="token_ids is a scalar"):
        from_logits(logits[0], logits[0], tokens[0])
    with pytest.raises(ValueError, match="student_logits has shape"):
        from_logits(torch.tensor(1.0), torch.tensor(1.0), tokens[0])


# ---------------------------------------------------------------------------- invariants


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    count, vocabulary = draw(st.integers(1, 9)), draw(st.integers(2, 40))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    spread = draw(st.sampled_from([0.1, 1.0, 10.0]))
    distance = draw(st.sampled_from([0.01, 1.0, 10.0]))
    student = torch.randn(count, vocabulary, generator=generator) * spread
    teacher = student + torch.randn(count, vocabulary, generator=generator) * distance
    return student, teacher, torch.randint(vocabulary, (count,), generator=generator)


few = settings(max_examples=40, deadline=None)


@few
@given(cases(), st.floats(-50, 50))
def test_a_constant_added_to_logits_changes_nothing(
    case: tuple[Tensor, Tensor, Tensor], constant: float
) -> None:
    student, teacher, tokens = case
    # Rounding the sum moves single logits by up to 4e-6.
    moved = from_logits(student + constant, teacher, tokens)
    for name, values in from_logits(student, teacher, tokens).items():
        torch.testing.assert_close(moved[name], values, rtol=1e-4, atol=3e-5)


@few
@given(cases())
def test_bounds(case: tuple[Tensor, Tensor, Tensor]) -> None:
    student, teacher, tokens = case
    got = from_logits(student, teacher, tokens)
    most = math.log(student.shape[1]) + 1e-5
    assert (got["loss"] >= 0).all()
    for name in ("student", "teacher"):
        assert (got[f"{name}_logprob"] <= 0).all()
        entropy = got[f"{name}_entropy"]
        assert (entropy >= 0).all() and (entropy <= most).all()


@few
@given(cases(), st.randoms(use_true_random=False))
def test_permuting_the_vocabulary_changes_only_ids(
    case: tuple[Tensor, Tensor, Tensor], random: Any
) -> None:
    student, teacher, tokens = case
    order = list(range(student.shape[1]))
    random.shuffle(order)
    new_ids = torch.tensor(order).argsort()[tokens]
    moved = from_logits(student[:, order], teacher[:, order], new_ids)
    # Log-probabilities of -32 and below have steps of 4e-6.
    assert_close(moved, from_logits(student, teacher, tokens), absolute=1e-5)


@few
@given(cases())
def test_the_loss_is_the_mean_log_ratio_under_the_student(
    case: tuple[Tensor, Tensor, Tensor],
) -> None:
    student, teacher, _ = case
    vocabulary = student.shape[1]
    tokens = torch.arange(vocabulary).expand(len(student), -1)
    every = [values.unsqueeze(1).expand(-1, vocabulary, -1) for values in (student, teacher)]
    got = from_logits(*every, tokens)
    shape = len(student), vocabulary
    ratio, logp = (got[name].reshape(shape) for name in ("log_ratio", "student_logprob"))
    loss = got["loss"].reshape(shape)
    torch.testing.assert_close((logp.exp() * ratio).sum(-1), loss[:, 0], rtol=1e-4, atol=1e-5)
    assert (loss == loss[:, :1]).all()


@few
@given(st.integers(0, 100), st.integers(1, 16), st.integers(1, 20), st.integers(1, 2000))
def test_sizes_of_blocks_and_chunks_do_not_matter(
    seed: int, rows: int, projected: int, chunk: int
) -> None:
    given_ = models(seed, torch.bfloat16)
    tokens = torch.randint(97, (3, 5), generator=torch.Generator().manual_seed(seed))
    expected = token_statistics(token_ids=tokens, **given_)
    with ExitStack() as stack:
        stack.enter_context(patch.object(tiles, "block_rows", lambda *_: rows))
        stack.enter_context(patch.object(tiles, "PROJECTED_ROWS", projected))
        stack.enter_context(patch.object(tiles, "CPU_CHUNK_ELEMENTS", chunk))
        assert_close(token_statistics(token_ids=tokens, **given_), expected)


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_do_not_change_a_bit(threads: int) -> None:
    student, teacher = torch.randn(50, 3000), torch.randn(50, 3000)
    tokens = torch.randint(3000, (50,))
    before = torch.get_num_threads()
    with patch.object(tiles, "block_rows", lambda *_: 2):
        try:
            torch.set_num_threads(1)
            one = from_logits(student, teacher, tokens)
            torch.set_num_threads(threads)
            several = from_logits(student, teacher, tokens)
        finally:
            torch.set_num_threads(before)
    assert all(torch.equal(one[name], several[name]) for name in one)
