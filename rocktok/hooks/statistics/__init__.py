"""Per-token statistics of a student against its teacher, exact over the whole vocabulary.

Nothing here touches a gradient, changes an input or keeps one, so a training step may call it at
any point.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import overload

import torch
from torch import Tensor

from rocktok.hooks.gradient_sinks import Delivery, GradientSink
from rocktok.hooks.statistics import compiled, fused, operations, tiles
from rocktok.schema import OPTIONAL_STATISTICS, TOP_K

COLUMNS = ("loss", *OPTIONAL_STATISTICS)
# Columns that not every call can have.
_OF_HIDDEN = frozenset(("head_grad_norm",))
_OF_ENDS = frozenset(("student_end", "teacher_end"))
# Those of each model's TOP_K likeliest tokens.
_OF_TOP = frozenset(("overlap", "student_mass", "teacher_mass", "teachability"))
# Those that a second look at rows with excluded tokens corrects.
_SUMMED = frozenset(
    ("loss", "student_entropy", "teacher_entropy", "grad_norm", "forward_kl", "jsd")
)
# What `alternatives` gives.
_ALTERNATIVES = ("student_ids", "student_probs", "teacher_ids", "teacher_probs")

# What gives the columns of the rows from one number up to another, in parts.
Tile = Callable[[tiles.Block, tiles.Positions, Tensor, int, int], list[dict[str, Tensor]]]


@torch.no_grad()
def token_statistics(
    *,
    token_ids: Tensor,
    student_logits: Tensor | None = None,
    teacher_logits: Tensor | None = None,
    student_hidden: Tensor | None = None,
    teacher_hidden: Tensor | None = None,
    student_head: Tensor | None = None,
    teacher_head: Tensor | None = None,
    student_bias: Tensor | None = None,
    teacher_bias: Tensor | None = None,
    student_logit_scale: float = 1.0,
    teacher_logit_scale: float = 1.0,
    student_softcap: float | None = None,
    teacher_softcap: float | None = None,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    columns: Collection[str] | None = None,
    terminal_ids: Collection[int] = (),
    alternatives: int = 0,
    gradients: GradientSink | None = None,
) -> dict[str, Tensor]:
    """Divergences, probabilities, entropies, ranks and gradient norms of every scored position.

    Each model is given in one of two ways: its raw logits, or the hidden states that enter its
    head together with the head, which is then projected here, in float32. A raw logit z becomes
    softcap·tanh(logit_scale·z / softcap) / temperature (no cap: logit_scale·z / temperature); the
    softmax of that is the student's p, or the teacher's q.

    Columns, in nats (`grad_norm` and `head_grad_norm`: nats per unit of logit and of weight):

    - `loss`: Σ p·(log p - log q), the reverse KL over the whole vocabulary; always there
    - `student_logprob`, `teacher_logprob`, `log_ratio`: of `token_ids`, and their difference
    - `student_entropy`, `teacher_entropy`: -Σ p·log p, -Σ q·log q
    - `grad_norm`: norm of the gradient of `loss` with respect to the student's raw logits
    - `head_grad_norm`: norm of its gradient with respect to the student's head weight, which is
      `grad_norm` times the norm of the hidden state, as that gradient is their outer product
    - `forward_kl`: Σ q·(log q - log p)
    - `jsd`: ½·KL(p‖m) + ½·KL(q‖m) with m = ½·(p + q), at most log 2
    - `overlap`: |S ∩ T| / k, S and T the k = min(16, V) likeliest tokens of p and of q
    - `student_mass`, `teacher_mass`: Σ p and Σ q over S ∩ T
    - `teachability`: Σ q over S
    - `teacher_rank`: rank of the token under q, 1 for the likeliest; 0 where q has NaN
    - `student_end`, `teacher_end`: Σ p and Σ q over `terminal_ids`

    Args:
        token_ids: (...,) integers, the token generated at each position (the target).
        student_logits: (..., V) raw head outputs, any floating dtype.
        teacher_logits: the same of the teacher.
        student_hidden: (..., H) input of the student's head; beside `student_logits`, it serves
            `head_grad_norm` only.
        teacher_hidden: (..., H') input of the teacher's head.
        student_head: (V, H) weight.
        teacher_head: (V, H') weight.
        student_bias: (V,) bias of the head, if it has one.
        teacher_bias: the same of the teacher.
        student_logit_scale: factor on the raw logits.
        teacher_logit_scale: the same of the teacher.
        student_softcap: soft cap of the logits, if the model has one.
        teacher_softcap: the same of the teacher.
        temperature: temperature of the loss.
        mask: (...,) nonzero where a position is scored; None scores all.
        columns: the columns wanted; None gives all that the arguments allow.
        terminal_ids: the token ids that end a text, in the vocabulary; repeated ones count once.
        alternatives: how many of each model's likeliest tokens to give.
        gradients: takes each position's gradient of `loss` with respect to the student's raw
            logits, the vector whose norm is `grad_norm`; 0 where the loss is not finite.

    Returns:
        Columns, each (N,) for the N scored positions in row-major order, float32 (`teacher_rank`:
        int32); and with alternatives = k: `student_ids`, `teacher_ids` (N, k) int32, each model's
        likeliest tokens, and `student_probs`, `teacher_probs` (N, k) float32, p and q of these.
        The likeliest come first; of equal ones, here and in S, T and the rank, the smaller id.

    Raises:
        ValueError: for shapes, vocabularies or arguments that do not fit together, a token id
            outside the vocabulary at a scored position or among the terminal ids, more
            alternatives than the vocabulary has, or a column that cannot be had.

    Arithmetic is float32 whatever the dtypes and whatever autocast or TF32 settings are in force.
    A student logit of -inf (p = 0) contributes nothing; a teacher logit of -inf where p > 0 makes
    loss and gradient norms infinite, and a student logit of -inf where q > 0 `forward_kl`; `jsd` is
    always finite. NaN gives NaN in its own row only.

    Memory beyond inputs, result and O(N) indices stays under two tiles of 512 rows of V float32,
    given H ≤ V / 6; with logits on the CPU it is a few rows. On the CPU, compiled loops compute it
    all (compiled once per machine, in some seconds). On an accelerator with Triton, kernels do,
    which copy no logits and hold some 2 KB a position where likeliest tokens are wanted; if they
    cannot be built, a RocktokWarning says so and PyTorch's own operations give the same, as they do
    elsewhere. DTensors are gathered whole, once.

    Source: the loss is the per-position reverse KL of arXiv 2605.09253, exact rather than sampled;
    the gradient norms, and how it is all summed, are ours.

    >>> from math import log
    >>> p, q = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.25, 0.75]])
    >>> token = torch.tensor([0])
    >>> got = token_statistics(token_ids=token, student_logits=p.log(), teacher_logits=q.log())
    >>> abs(got["loss"].item() - 0.5 * log(4 / 3)) < 1e-6
    True
    >>> abs(got["log_ratio"].item() - log(2)) < 1e-6
    True
    """
    token_ids = _plain(token_ids)
    shape = token_ids.shape
    student = _model(
        "student",
        shape,
        (student_logits, student_hidden, student_head, student_bias),
        student_logit_scale,
        student_softcap,
    )
    teacher = _model(
        "teacher",
        shape,
        (teacher_logits, teacher_hidden, teacher_head, teacher_bias),
        teacher_logit_scale,
        teacher_softcap,
    )
    if student.vocabulary != teacher.vocabulary:
        raise ValueError(
            f"the student's vocabulary has {student.vocabulary} entries, the teacher's "
            f"{teacher.vocabulary}; cut both to the tokens they share"
        )
    _check_positive("temperature", temperature)
    ends = _checked_ends(terminal_ids, student.vocabulary)
    wanted = _wanted_columns(columns, student.hidden is not None, bool(ends))
    agreement = min(TOP_K, student.vocabulary) if wanted & _OF_TOP else 0
    _check_alternatives(alternatives, student.vocabulary)
    positions = _scored_positions(token_ids, _plain(mask), student.device)
    token_N = _checked_tokens(token_ids, positions, student.vocabulary)
    # The norm of the head's gradient is made from that of the logits' at the end.
    with_norm = "head_grad_norm" in wanted or gradients is not None
    inner = wanted | {"grad_norm"} if with_norm else wanted
    ends_M = torch.tensor(ends, dtype=torch.int64, device=student.device) if ends else None
    sizes = agreement, alternatives
    block = tiles.Block(student, teacher, float(temperature), inner, ends_M, *sizes)
    with torch.autocast(student.device.type, enabled=False):
        result = _all_blocks(block, positions, token_N, gradients)
    names = (
        *(name for name in COLUMNS if name in wanted),
        *(_ALTERNATIVES if alternatives else ()),
    )
    return {name: result[name] for name in names}


def _all_blocks(
    block: tiles.Block, positions: tiles.Positions, token_N: Tensor, sink: GradientSink | None
) -> dict[str, Tensor]:
    """Every column of every scored position."""
    result = _rows(block, positions, token_N, sink)
    if "head_grad_norm" in block.columns:
        result["head_grad_norm"] = result["grad_norm"] * _hidden_norms(block.student, positions)
    if sink is not None:
        sink.finish(result["grad_norm"])
    return result


def _rows(
    block: tiles.Block, positions: tiles.Positions, token_N: Tensor, sink: GradientSink | None
) -> dict[str, Tensor]:
    """Every column that the logits give: compiled on the CPU, by the kernel where there is one.

    The kernel keeps no gradients: a sink asks for PyTorch's operations.
    """
    models = block.student, block.teacher
    if sink is None and fused.usable(*models):
        try:
            return _blocks(fused.tile, block, positions, token_N)
        except fused.KernelError as error:
            fused.give_up(error)
    if compiled.usable(*models):
        return _by(compiled.statistics, compiled.COPIES, block, positions, token_N, sink)
    result = _by(operations.statistics, operations.COPIES, block, positions, token_N, sink)
    # One question for all rows: asking block by block would make an accelerator wait each time.
    odd_M = (~result["loss"].isfinite()).nonzero().squeeze(1)
    if len(odd_M):
        careful = partial(operations.statistics, excluded=True)
        odd = positions.subset(odd_M), token_N[odd_M]
        again = _by(careful, operations.COPIES, block, *odd, sink, odd_M.tolist())
        for name in _SUMMED & result.keys():
            result[name][odd_M] = again[name]
    return result


def _by(
    statistics: tiles.Statistics,
    copies: int,
    block: tiles.Block,
    positions: tiles.Positions,
    token_N: Tensor,
    sink: GradientSink | None,
    rows: Sequence[int] | None = None,
) -> dict[str, Tensor]:
    """One pass by the given arithmetic; `rows` are numbers of its positions, if not all are in."""
    deliver = None if sink is None else Delivery(sink, rows or range(len(positions)))
    tile = partial(tiles.tile, statistics, copies, deliver)
    return _blocks(tile, block, positions, token_N)


def _blocks(
    tile: Tile, block: tiles.Block, positions: tiles.Positions, token_N: Tensor
) -> dict[str, Tensor]:
    """One pass over the positions, in tiles that are projected and blocks that are computed."""
    count = len(positions)
    projected = block.student.head_VH is not None or block.teacher.head_VH is not None
    step = tiles.PROJECTED_ROWS if projected else max(1, count)
    parts: list[dict[str, Tensor]] = []
    for start in range(0, max(1, count), step):
        parts += tile(block, positions, token_N, start, min(start + step, count))
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _hidden_norms(student: tiles.Model, positions: tiles.Positions) -> Tensor:
    assert student.hidden is not None
    norms = [
        torch.linalg.vector_norm(
            positions.take(student.hidden, start, start + tiles.PROJECTED_ROWS).to(torch.float32),
            dim=-1,
        )
        for start in range(0, max(1, len(positions)), tiles.PROJECTED_ROWS)
    ]
    return torch.cat(norms).to(student.device)


def _model(
    name: str,
    shape: torch.Size,
    tensors: tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None],
    logit_scale: float,
    softcap: float | None,
) -> tiles.Model:
    """Check one model's arguments, none of which depends on the other's."""
    logits, hidden, head, bias = (_plain(tensor) for tensor in tensors)
    if logits is None and (hidden is None or head is None):
        raise ValueError(f"give {name}_logits, or {name}_hidden and {name}_head")
    if logits is not None and (head is not None or bias is not None):
        raise ValueError(f"give {name}_logits or {name}_head, not both: the logits are used raw")
    if logits is not None and hidden is not None and name == "teacher":
        raise ValueError("teacher_hidden has no use beside teacher_logits; give one of them")
    for kind, values in (("logits", logits), ("hidden", hidden)):
        if values is not None:
            _check_leading(f"{name}_{kind}", values, shape)
    if head is not None:
        _check_head(name, hidden, head, bias)
    _check_positive(f"{name}_logit_scale", logit_scale)
    if softcap is not None:
        _check_positive(f"{name}_softcap", softcap)
    return tiles.Model(logits, hidden, head, bias, float(logit_scale), softcap)


@overload
def _plain(tensor: Tensor) -> Tensor: ...
@overload
def _plain(tensor: None) -> None: ...
def _plain(tensor: Tensor | None) -> Tensor | None:
    """Detached, and whole where it was sharded."""
    if tensor is None:
        return None
    tensor = tensor.detach()
    # A DTensor is known by this method: importing its module would cost more than it tells.
    gather = getattr(tensor, "full_tensor", None)
    whole: Tensor = tensor if gather is None else gather()
    return whole


def _check_leading(name: str, values: Tensor, shape: torch.Size) -> None:
    if values.shape[:-1] != shape or not values.dim():
        raise ValueError(
            f"{name} has shape {tuple(values.shape)}; token_ids of shape {tuple(shape)} "
            "ask for the same with one more dimension at the end"
        )
    if not values.is_floating_point():
        raise ValueError(f"{name} has dtype {values.dtype}; a floating one is needed")


def _check_head(name: str, hidden: Tensor | None, head: Tensor, bias: Tensor | None) -> None:
    assert hidden is not None
    if head.dim() != 2 or head.shape[1] != hidden.shape[-1]:
        raise ValueError(
            f"{name}_head has shape {tuple(head.shape)}; hidden states of size "
            f"{hidden.shape[-1]} ask for (vocabulary, {hidden.shape[-1]})"
        )
    if bias is not None and bias.shape != head.shape[:1]:
        raise ValueError(
            f"{name}_bias has shape {tuple(bias.shape)}; the head asks for ({head.shape[0]},)"
        )


def _check_positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{name} is {value}; it must be positive and finite")


def _wanted_columns(
    columns: Collection[str] | None, have_hidden: bool, have_ends: bool
) -> frozenset[str]:
    missing = (_OF_HIDDEN if not have_hidden else frozenset()) | (
        _OF_ENDS if not have_ends else frozenset()
    )
    if columns is None:
        return frozenset(COLUMNS) - missing
    unknown = [name for name in columns if name not in COLUMNS]
    if unknown:
        raise ValueError(f"no such column: {', '.join(unknown)} (there are {', '.join(COLUMNS)})")
    for name in columns:
        if name in missing & _OF_HIDDEN:
            raise ValueError(f"{name} needs student_hidden, the input of the student's head")
        if name in missing & _OF_ENDS:
            raise ValueError(f"{name} needs terminal_ids, the token ids that end a text")
    return frozenset(columns) | {"loss"}


def _checked_ends(terminal_ids: Collection[int], vocabulary: int) -> list[int]:
    """The terminal ids, each once, in order."""
    outside = [token for token in terminal_ids if not 0 <= token < vocabulary]
    if outside:
        raise ValueError(f"terminal id {outside[0]} is outside the vocabulary of {vocabulary}")
    return sorted({int(token) for token in terminal_ids})


def _check_alternatives(alternatives: int, vocabulary: int) -> None:
    if not 0 <= alternatives <= vocabulary:
        raise ValueError(
            f"alternatives is {alternatives}; a vocabulary of {vocabulary} has from 0 to that many"
        )


def _scored_positions(
    token_ids: Tensor, mask: Tensor | None, device: torch.device
) -> tiles.Positions:
    if not token_ids.dim():
        raise ValueError("token_ids is a scalar; at least one dimension is needed")
    if mask is None:
        mask = torch.ones(token_ids.shape, dtype=torch.bool, device=device)
    elif mask.shape != token_ids.shape:
        raise ValueError(f"mask has shape {tuple(mask.shape)}, token_ids {tuple(token_ids.shape)}")
    index = mask.to(device).nonzero(as_tuple=True)
    return tiles.Positions(index, every=len(index[0]) == token_ids.numel())


def _checked_tokens(token_ids: Tensor, positions: tiles.Positions, vocabulary: int) -> Tensor:
    """(N,) int64 token ids of the scored positions."""
    if token_ids.is_floating_point() or token_ids.dtype == torch.bool:
        raise ValueError(f"token_ids has dtype {token_ids.dtype}; integers are needed")
    token_N = token_ids.to(positions.index[0].device, torch.int64)[positions.index]
    outside_N = (token_N < 0) | (token_N >= vocabulary)
    if outside_N.any():
        raise ValueError(
            f"token id {token_N[outside_N][0].item()} at a scored position is outside the "
            f"vocabulary of {vocabulary}; labels such as -100 belong to unscored positions"
        )
    return token_N
