"""The Triton kernel against values worked out by hand, float64, autograd and the tiles.

It runs in Triton's interpreter (tests/conftest.py asks for that). Where there is a card, one test
starts all the others again with the kernel compiled and every tensor on the card.

Shape suffixes: N positions, V vocabulary.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton", reason="Triton is not installed: there is no kernel to test")

from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rocktok.errors import RocktokWarning
from rocktok.hooks import statistics
from rocktok.hooks.statistics import fused, tiles, token_statistics
from rocktok.schema import TOP_K
from tests.hooks import test_statistics

# What holds of the tiles must hold of the kernel: these run here again, on the kernel.
from tests.hooks.test_statistics import (  # noqa: F401
    INF,
    LARGE,
    SHAPES,
    assert_close,
    final,
    from_logits,
    largest,
    models,
    reference,
    test_a_case_by_hand,
    test_an_underflowing_student_probability_is_not_zero,
    test_both_ways_agree,
    test_columns_are_those_asked_for,
    test_equal_models_lose_nothing,
    test_float64_and_half_inputs_give_float32,
    test_gradient_norms_are_autograds,
    test_logits_that_are_slices_of_longer_ones,
    test_losses_from_tiny_to_large,
    test_mask_picks_positions_in_row_major_order,
    test_minus_infinity,
    test_nan_stays_in_its_row,
    test_nothing_scored_gives_empty_columns,
    test_temperature_scale_and_cap_by_hand,
)
from tests.paths import ROOT

DEVICE = "cuda" if os.environ["TRITON_INTERPRET"] == "0" else "cpu"
# Twenty blocks, the last of them partly filled.
ODD = 20_011


def further(value: Any) -> Any:
    """A case that others stand for where the kernel is interpreted, which is slow."""
    return pytest.param(value, marks=pytest.mark.exhaustive)


# The interpreter computes masked-out and infinite values as NumPy does: with a warning.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def on_kernel(**arguments: Any) -> dict[str, Tensor]:
    """`token_statistics` on the device under test."""
    moved = {
        name: value.to(DEVICE) if isinstance(value, Tensor) else value
        for name, value in arguments.items()
    }
    return {name: values.cpu() for name, values in token_statistics(**moved).items()}


@pytest.fixture(autouse=True)
def _no_tiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but the kernel computes, unless the test is about when it does not."""
    if "falling_back" in request.fixturenames:
        return

    def refuse(*_: object) -> None:
        raise AssertionError("not computed by the kernel")

    monkeypatch.setattr(test_statistics, "token_statistics", on_kernel)
    # The interpreter takes 20 ms to find a token. One test finds all sixteen.
    if request.function is not test_statistics.test_a_case_by_hand:  # three tokens
        for module in (statistics, test_statistics):
            monkeypatch.setattr(module, "TOP_K", 1)
    monkeypatch.setattr(statistics, "_by", refuse)
    monkeypatch.setattr(fused, "usable", lambda *_: True)
    monkeypatch.setattr(fused, "give_up", refuse)


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def assert_relative(got: dict[str, Tensor], expected: dict[str, Tensor], most: float) -> None:
    """Divergences and norm as the definition has them, however small; all else closely."""
    assert_close(got, expected, absolute=5e-6)
    for name in ("loss", "grad_norm", "forward_kl", "jsd"):
        torch.testing.assert_close(
            got[name].double(), expected[name].double(), rtol=most, atol=0, msg=f"{name} differs"
        )


# ---------------------------------------------------------------------------- accuracy


@pytest.mark.long
@pytest.mark.exhaustive
@pytest.mark.parametrize("dtype", [further(torch.float32), torch.bfloat16])
def test_a_large_vocabulary(dtype: torch.dtype) -> None:
    spread = torch.tensor([[0.5], [3.0], [3.0], [20.0]])
    distance = torch.tensor([[1.5e-3], [0.03], [1.0], [5.0]])
    student = noise(0, 4, LARGE) * spread
    teacher = student + noise(1, 4, LARGE) * distance
    if dtype == torch.float32:
        teacher += 7.3
    student, teacher = student.to(dtype), teacher.to(dtype)
    tokens = student.float().argmax(-1)
    expected = reference(student, teacher, tokens)
    assert expected["loss"].min() < 4e-6 and expected["grad_norm"].min() < 1e-5
    assert_relative(from_logits(student, teacher, tokens), expected, 1e-4)


@pytest.mark.long
@pytest.mark.parametrize("gap", [5.0, further(12.0), further(20.0), 25.0])
@pytest.mark.parametrize("place", [0, ODD - 1])
def test_an_all_but_certain_student_over_a_long_tail(gap: float, place: int) -> None:
    student, teacher = noise(2, 2, ODD), noise(3, 2, ODD)
    student[:, place] = student.max() + gap
    teacher[:, 1] = teacher.max() + 5
    tokens = torch.tensor([0, 5])
    expected = reference(student, teacher, tokens)
    assert expected["grad_norm"].min() < 2e-6 or gap < 25
    assert_relative(from_logits(student, teacher, tokens), expected, 1e-5)


@pytest.mark.long
@pytest.mark.parametrize("gap", [0.0, 8.0, 12.0])
@pytest.mark.parametrize("distance", [1e-3, further(1e-2), 0.3])
def test_nearly_equal_and_all_but_certain_at_once(gap: float, distance: float) -> None:
    student = noise(4, 2, ODD)
    student[:, 7] = student.max() + gap
    teacher = student + distance * noise(5, 2, ODD) + 11.0
    tokens = torch.tensor([7, 8])
    expected = reference(student, teacher, tokens)
    assert_relative(from_logits(student, teacher, tokens), expected, 1e-3)


@pytest.mark.long
@pytest.mark.parametrize("temperature", [0.7, further(1.0), 3.0])
@pytest.mark.parametrize("scale", [0.3, further(1.0)])
@pytest.mark.parametrize("caps", [(None, None), (30.0, 50.0), (30.0, None), (None, 30.0)], ids=str)
def test_what_shapes_the_logits(
    temperature: float, scale: float, caps: tuple[float | None, float | None]
) -> None:
    raw_student = noise(6, 2, 2500).double() * 8
    raw_teacher = raw_student + noise(7, 2, 2500) * 0.01
    tokens = torch.tensor([3, 2499])
    raw_student.requires_grad_()
    student = final(raw_student, scale, caps[0], temperature)
    teacher = final(raw_teacher, scale, caps[1], temperature)
    logp, logq = student.log_softmax(-1), teacher.log_softmax(-1)
    loss = (logp.exp() * (logp - logq)).sum(-1)
    loss.sum().backward()
    expected = reference(student.detach(), teacher, tokens)
    assert raw_student.grad is not None
    expected["grad_norm"] = raw_student.grad.norm(dim=-1)
    got = from_logits(
        raw_student.detach(),
        raw_teacher,
        tokens,
        temperature=temperature,
        student_logit_scale=scale,
        teacher_logit_scale=scale,
        student_softcap=caps[0],
        teacher_softcap=caps[1],
    )
    assert_relative(got, expected, 1e-3)


def test_a_saturated_cap() -> None:
    raw = torch.tensor([[400.0, 100.0, -30.0, 0.0, 1e-3, -1e-7]])
    other = raw.flip(1)
    got = from_logits(raw, other, torch.tensor([0]), student_softcap=20.0, teacher_softcap=20.0)
    student, teacher = (final(values.double(), 1.0, 20.0, 1.0) for values in (raw, other))
    expected = reference(student, teacher, torch.tensor([0]))
    logp, logq = student.log_softmax(-1), teacher.log_softmax(-1)
    pull = logp.exp() * (logp - logq - expected["loss"].unsqueeze(1))
    expected["grad_norm"] = (pull / (raw.double() / 20).cosh().square()).norm(dim=-1)
    # All of this norm of 1e-7 is where the cap leaves logits 1e-3 apart that are 20 themselves.
    assert_relative(got, expected, 1e-3)


# ---------------------------------------------------------------------------- likeliest tokens


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_likeliest_tokens_of_both(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over several blocks, tied (bfloat16) or not, with one row that excludes nearly everything."""
    for module in (statistics, test_statistics):
        monkeypatch.setattr(module, "TOP_K", TOP_K)
    student, teacher = (noise(seed, 2, 3072).mul(3).to(dtype) for seed in (30, 31))
    student[1, 5:] = -INF
    teacher[1, 2000] = teacher[1, 1023] = teacher[1, 1024] = 20.0
    tokens = torch.tensor([1, 1024])
    options: dict[str, Any] = {"columns": ("overlap", "teachability", "teacher_rank")}
    got = from_logits(student, teacher, tokens, alternatives=TOP_K, **options)
    for name, logits in (("student", student), ("teacher", teacher)):
        best = largest(logits, TOP_K)
        assert torch.equal(got[f"{name}_ids"].long(), best)
        probs = logits.double().softmax(-1).gather(1, best)
        torch.testing.assert_close(got[f"{name}_probs"].double(), probs, rtol=1e-5, atol=1e-7)
    assert got["teacher_ids"][1, :3].tolist() == [1023, 1024, 2000]
    assert got["student_ids"][1, 5:].tolist() == list(range(5, 16))
    expected = reference(student, teacher, tokens)
    assert_close(got, {name: expected[name] for name in ("overlap", "teachability")})
    assert got["teacher_rank"].tolist() == [expected["teacher_rank"][0], 2]


# ---------------------------------------------------------------------------- sizes and orders


@pytest.mark.parametrize("vocabulary", [1, 2, 1023, 1024, 1025, 2047, 2048, 3333])
def test_vocabularies_that_fill_blocks_or_not(vocabulary: int) -> None:
    student, teacher = noise(8, 3, vocabulary) * 3, noise(9, 3, vocabulary) * 3
    tokens = torch.tensor([0, vocabulary - 1, vocabulary // 2])
    expected = reference(student, teacher, tokens)
    assert_close(from_logits(student, teacher, tokens), expected)


@pytest.mark.parametrize("slope", [-0.03, pytest.param(-1e-3, marks=pytest.mark.long), 1e-3, 0.03])
def test_logits_that_rise_or_fall_all_the_way(slope: float) -> None:
    """Every block, or none but the first, has a new largest logit."""
    ramp = torch.arange(5000) * slope
    student, teacher = ramp + noise(10, 2, 5000), ramp * 0.9 + noise(11, 2, 5000)
    for first, second in ((student, teacher), (student, teacher.flip(1))):
        expected = reference(first, second, torch.tensor([0, 4999]))
        got = from_logits(first, second, torch.tensor([0, 4999]))
        assert_close(got, expected, absolute=2e-5)


def test_rows_anywhere_in_memory() -> None:
    student = noise(12, 4, 6, 1200)[:, 1:5, 77:1101]
    teacher = noise(13, 4, 1024).unsqueeze(1).expand(4, 4, 1024)
    tokens = torch.randint(1024, (4, 4))
    mask = torch.rand(4, 4) < 0.7
    got = from_logits(student.bfloat16(), teacher, tokens, mask=mask)
    expected = reference(student.bfloat16()[mask], teacher[mask], tokens[mask])
    assert_close(got, expected)


def test_rows_projected_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    given_ = models(14, torch.bfloat16)
    tokens = torch.randint(97, (3, 5))
    mask = torch.rand(3, 5) < 0.8
    whole = on_kernel(token_ids=tokens, mask=mask, **given_)
    monkeypatch.setattr(tiles, "PROJECTED_ROWS", 4)
    assert_close(on_kernel(token_ids=tokens, mask=mask, **given_), whole)


# ---------------------------------------------------------------------------- odd values


def test_blocks_of_excluded_tokens() -> None:
    student, teacher = noise(15, 3, 3000), noise(16, 3, 3000)
    tokens = torch.tensor([2500, 1500, 2500])
    expected = reference(student[:, 1030:], teacher[:, 1030:], tokens - 1030)
    lowest = torch.finfo(torch.float32).min
    for low in (-INF, lowest, -1e30):  # each of them is in use as a mask
        student[:, :1030] = teacher[:, :1030] = low
        assert_close(from_logits(student, teacher, tokens), expected)
    student[:, 1030] = teacher[:, 1030] = lowest
    shorter = reference(student[:, 1031:], teacher[:, 1031:], tokens - 1031)
    assert_close(from_logits(student, teacher, tokens), shorter)
    # What the student alone excludes has no p; its q counts all the same.
    teacher[:, :1030] = noise(17, 3, 1030)
    got = from_logits(student, teacher, tokens)
    logp, logq = (values.double().log_softmax(-1)[:, 1031:] for values in (student, teacher))
    loss = (logp.exp() * (logp - logq)).sum(-1)
    torch.testing.assert_close(got["loss"].double(), loss, rtol=1e-5, atol=0)


@pytest.mark.parametrize("place", [0, 1500, 2999])
def test_a_token_that_only_the_teacher_excludes(place: int) -> None:
    student, teacher = noise(18, 4, 3000), noise(19, 4, 3000)
    teacher[0, place] = -INF
    student[1, place], teacher[1, place] = -300.0, -INF  # p underflows
    student[2, place], teacher[2, place] = 50.0, -INF  # p is all but certain
    student[3, place] = -INF
    tokens = torch.tensor([place, 1, 2, 3])
    got = from_logits(student, teacher, tokens)
    for name in ("loss", "grad_norm"):
        assert got[name].isinf().tolist() == [True, True, True, False], name
        assert (got[name] > 0).all()
    assert got["teacher_logprob"][0] == -INF and got["log_ratio"][0] == INF
    for name in ("student_entropy", "teacher_entropy", "jsd"):
        assert got[name].isfinite().all()
    assert got["forward_kl"].isinf().tolist() == [False, False, False, True]


def test_rows_without_a_distribution() -> None:
    student, teacher = noise(20, 6, 1500), noise(21, 6, 1500)
    student[1] = -INF
    teacher[2, 3] = INF
    student[3, 1499] = math.nan
    teacher[4, 0] = math.nan
    got = from_logits(student, teacher, torch.zeros(6, dtype=torch.long))
    for name in ("loss", "grad_norm"):
        assert got[name].isnan().tolist() == [False, True, True, True, True, False], name
    for name in ("student_entropy", "student_logprob"):
        assert got[name].isnan().tolist() == [False, True, False, True, False, False], name
    for name in ("teacher_entropy", "teacher_logprob"):
        assert got[name].isnan().tolist() == [False, False, True, False, True, False], name
    for name in ("forward_kl", "jsd", "overlap", "student_mass", "teacher_mass", "teachability"):
        assert got[name].isnan().tolist() == [False, True, True, True, True, False], name
    assert (got["teacher_rank"] == 0).tolist() == [False, False, True, False, True, False]


# ---------------------------------------------------------------------------- invariants


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    count, vocabulary = draw(st.integers(1, 3)), draw(st.integers(2, 2100))
    seed = draw(st.integers(0, 2**32))
    spread = draw(st.sampled_from([0.1, 1.0, 10.0]))
    distance = draw(st.sampled_from([1e-3, 1.0, 10.0]))
    student = noise(seed, count, vocabulary) * spread
    teacher = student + noise(seed + 1, count, vocabulary) * distance
    generator = torch.Generator().manual_seed(seed)
    return student, teacher, torch.randint(vocabulary, (count,), generator=generator)


few = settings(max_examples=12, deadline=None)


@few
@given(cases())
def test_it_is_the_definition_and_within_bounds(case: tuple[Tensor, Tensor, Tensor]) -> None:
    student, teacher, tokens = case
    got = from_logits(student, teacher, tokens, terminal_ids=(0, 1))
    assert_close(got, reference(student, teacher, tokens, (0, 1)), absolute=1e-5)
    assert (got["forward_kl"] >= 0).all() and (got["jsd"] >= 0).all()
    assert (got["jsd"] <= torch.tensor(math.log(2))).all()
    assert (got["loss"] >= 0).all() and (got["grad_norm"] >= 0).all()
    for name in ("student", "teacher"):
        assert (got[f"{name}_logprob"] <= 0).all()
        entropy = got[f"{name}_entropy"]
        assert (entropy >= 0).all() and (entropy <= math.log(student.shape[1]) + 1e-5).all()


@pytest.mark.long
@few
@given(cases(), st.randoms(use_true_random=False), st.floats(-50, 50))
def test_neither_order_nor_a_constant_matters(
    case: tuple[Tensor, Tensor, Tensor], random: Any, constant: float
) -> None:
    student, teacher, tokens = case
    order = list(range(student.shape[1]))
    random.shuffle(order)
    new_ids = torch.tensor(order).argsort()[tokens]
    moved = from_logits(student[:, order], teacher[:, order] + constant, new_ids)
    # Rounding the sum moves single logits by up to 4e-6.
    for name, values in from_logits(student, teacher, tokens).items():
        torch.testing.assert_close(moved[name], values, rtol=1e-3, atol=3e-5)


# ---------------------------------------------------------------------------- when it is used


@pytest.fixture
def falling_back(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(fused, "_given_up", False)
    return monkeypatch


def model(logits: Any) -> tiles.Model:
    return tiles.Model(logits, None, None, None, 1.0, None)


class OnCard:
    """As much of a tensor on a card as `usable` asks about."""

    def __init__(self, strides: tuple[int, ...] = (9, 1), device: str = "cuda:0") -> None:
        self.device = torch.device(device)
        self.stride = strides.__getitem__


def test_it_is_used_on_a_card_where_it_can_be(falling_back: pytest.MonkeyPatch) -> None:
    assert fused.usable(model(OnCard()), model(OnCard((1, 1))))
    assert not fused.usable(model(torch.zeros(2, 9)), model(torch.zeros(2, 9)))
    assert not fused.usable(model(OnCard()), model(OnCard((1, 9))))
    assert not fused.usable(model(OnCard()), model(OnCard(device="cuda:1")))
    falling_back.setattr("importlib.util.find_spec", lambda _: None)
    assert not fused.usable(model(OnCard()), model(OnCard()))


def test_a_kernel_that_cannot_be_built_is_left_alone(falling_back: pytest.MonkeyPatch) -> None:
    student, teacher, tokens = noise(22, 4, 50), noise(23, 4, 50), torch.arange(4)
    expected = from_logits(student, teacher, tokens)

    class Unbuildable:
        def __getitem__(self, _: object) -> None:
            raise RuntimeError("no C compiler")

    falling_back.setattr(fused, "_reachable", lambda _: True)
    falling_back.setattr(fused._kernel(), "token_sums", Unbuildable())
    with pytest.warns(RocktokWarning, match="without the Triton kernel"):
        got = from_logits(student, teacher, tokens)
    assert all(torch.equal(got[name], expected[name]) for name in expected)
    # Said once: a second warning would be an error.
    from_logits(student, teacher, tokens)


# ---------------------------------------------------------------------------- compiled

COMPILE = """
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from rocktok.hooks.statistics import fused_kernel as kernel, fused_terms as terms
from rocktok.hooks.statistics.fused_likeliest import likeliest

pointers = dict(student_row_N="*i64", teacher_row_N="*i64", token_N="*i64", end_M="*i64",
                row_N="*i64", other_row_N="*i64", sums_CN="*fp32", highest_ND="*fp32",
                id_NK="*i64", logit_NK="*fp32", other_logit_NK="*fp32")
numbers = dict.fromkeys(("rows", "vocabulary", "ends", "count"), "i32")
names = ("student_logits", "teacher_logits", "logits", "other_logits")

def build(function, arch, dtype, **constants):
    types = dict.fromkeys(names, "*" + dtype) | pointers | numbers
    types |= dict.fromkeys(constants, "constexpr")
    signature = {name: types.get(name, "fp32") for name in function.arg_names}
    source = ASTSource(function, signature, constexprs=constants)
    options = dict(num_warps=kernel.WARPS, enable_fp_fusion=False)
    compiled = compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    assert len(compiled.asm["cubin"]) > 1000

# Of an integer that is 1, Triton makes a constant.
for arch, dtype, shape, more, ones in (
    (80, "fp32", terms.SCALED, False, {}),
    (90, "bf16", terms.RAW, True, {}),
    (90, "fp16", terms.CAPPED, True, dict(rows=1, vocabulary=1, ends=1)),
):
    build(kernel.token_sums, arch, dtype, STUDENT=shape, TEACHER=shape, STUDENT_ALIGNED=True,
          TEACHER_ALIGNED=False, RANK=more, DIVERGENCES=more, TOP=more, WIDTH=kernel.BLOCK,
          DEPTH=kernel.STAGES, **ones)
    ones = dict(count=1) if ones else {}
    build(likeliest, arch, dtype, MODEL=shape, OTHER=terms.RAW, SECOND=int(more),
          BLOCKS=256, WIDTH=kernel.BLOCK, **ones)
"""


@pytest.mark.long
@pytest.mark.exhaustive
def test_it_compiles_for_cards_that_are_not_here() -> None:
    """The interpreter allows more than the compiler does."""
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(
    DEVICE == "cuda" or not torch.cuda.is_available(), reason="needs an accelerator"
)
def test_everything_again_on_the_card() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    arguments = [sys.executable, "-m", "pytest", "-m", "", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(
        arguments,
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
