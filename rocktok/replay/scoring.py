"""What a model makes of a batch of texts, and the statistics of a student beside its teacher.

A model's head is applied here, a tile of positions at a time: the logits of a whole batch would be
far larger than the model. Of a model whose head cannot be told apart the logits are taken as they
come.

Shape suffixes: B texts, T tokens (padded), N completion tokens, H hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rocktok.errors import DataError, RocktokError
from rocktok.hooks.projecting import project_hidden
from rocktok.hooks.statistics import tiles, token_statistics

if TYPE_CHECKING:
    from torch import Tensor

    from rocktok._types import Array
    from rocktok.hooks.contexts import Projections
    from rocktok.replay.texts import Texts

#: Columns that a student without a plain head cannot have.
NORMS = ("grad_norm", "head_grad_norm")

# What configurations call a factor on the head's output, or on its input (some divide by it), and
# a soft cap on it. Which of them a model applies, and how, it is asked.
_SCALES = ("logit_scale", "logits_scaling", "lm_head_multiplier", "output_multiplier")
_SOFTCAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap", "softcap")

_PROBE_TOKENS = 32
#: Logits that a model without a plain head may make at once.
MOST_LOGITS = 1 << 28


@dataclass(frozen=True)
class Head:
    """A linear output head, and what the model does to its output z: cap·tanh(scale·z/cap)."""

    weight_VH: Tensor
    bias_V: Tensor | None
    scale: float
    softcap: float | None


@dataclass(frozen=True)
class Wanted:
    """What is recorded of each position beside the loss.

    Attributes:
        columns: statistics.
        terminal_ids: of the run, for those that are sums over them.
        alternatives: likeliest tokens of each model.
    """

    columns: tuple[str, ...] = ()
    terminal_ids: Collection[int] = ()
    alternatives: int = 0


@dataclass(frozen=True)
class Scorer:
    """A loaded model.

    Attributes:
        head: None where it cannot be told apart.
        vocabulary: number of its logits.
        shared: of them, those that both models have; the others are left out of every statistic.
    """

    name: str
    model: Any
    head: Head | None
    vocabulary: int
    device: str
    shared: int

    def columns(self, wanted: tuple[str, ...]) -> tuple[str, ...]:
        """Those of some columns that can be had with this model as the student.

        Gradient norms are with respect to the raw output of the head: without it, they are left.
        """
        return tuple(c for c in wanted if self.head is not None or c not in NORMS)

    def states(self, ids_BT: Tensor, mask_BT: Tensor, place_N: Any) -> Tensor:
        """(N, H) what enters the head at some positions; (N, V) logits where it is not known.

        `place_N`: (row, column) indices of the positions that predicted each completion token.
        """
        if self.head is None:
            states_BTV: Tensor = _forward(self.model, ids_BT, mask_BT)[place_N]
            return states_BTV
        hidden_BTH = head_input(self.model, ids_BT, mask_BT)
        assert hidden_BTH is not None
        return hidden_BTH[place_N]

    def arguments(self, states_N: Tensor, who: str) -> dict[str, Any]:
        """`token_statistics`' arguments for this model as the "student" or the "teacher"."""
        if self.head is None:
            return {f"{who}_logits": states_N[:, : self.shared]}
        bias_V = self.head.bias_V
        return {
            f"{who}_hidden": states_N,
            f"{who}_head": self.head.weight_VH[: self.shared],
            f"{who}_bias": None if bias_V is None else bias_V[: self.shared],
            f"{who}_logit_scale": self.head.scale,
            f"{who}_softcap": self.head.softcap,
        }

    def outside(self, states_N: Tensor, token_N: Tensor, logprob_N: Tensor, warmth: float) -> Any:
        """(N,) probability of the ids that the other model lacks; None where it lacks none.

        `logprob_N`: of `token_N` among the shared ids, at temperature `warmth`.
        """
        if self.shared == self.vocabulary:
            return None
        token_N1 = token_N[:, None]
        if self.head is None:
            ours_NX = states_N[:, self.shared :].float() / warmth
            own_N = states_N.gather(1, token_N1)[:, 0].float() / warmth
        else:
            ours_NX = self._logits(states_N, slice(self.shared, None)) / warmth
            # A row of the head for each position, as no two hold the same token.
            rows_NH = self.head.weight_VH[token_N].float()
            raw_N = (states_N.float() * rows_NH).sum(dim=1)
            if self.head.bias_V is not None:
                raw_N = raw_N + self.head.bias_V[token_N].float()
            own_N = self._final(raw_N) / warmth
        inside_N = own_N - logprob_N
        return torch.sigmoid(torch.logsumexp(ours_NX, dim=1) - inside_N)

    def _logits(self, states_N: Tensor, ids: slice) -> Tensor:
        assert self.head is not None
        bias_V = self.head.bias_V
        part = None if bias_V is None else bias_V[ids]
        return self._final(tiles.project(states_N, self.head.weight_VH[ids], part))

    def _final(self, raw: Tensor) -> Tensor:
        assert self.head is not None
        scaled, cap = raw * self.head.scale, self.head.softcap
        return scaled if cap is None else cap * torch.tanh(scaled / cap)


@dataclass
class Outside:
    """Probability that models give to ids which the other lacks, over the positions scored."""

    positions: int = 0
    total: float = 0.0
    largest: float = 0.0

    def add(self, mass_N: Tensor | None) -> None:
        """Count some positions' mass; None: nothing was left out."""
        if mass_N is not None and len(mass_N):
            self.positions += len(mass_N)
            self.total += float(mass_N.double().sum())
            self.largest = max(self.largest, float(mass_N.max()))


def scorer(name: str, model: Any, texts: Texts, device: str) -> Scorer:
    """A loaded model with its head, which is tried on the beginning of a text."""
    shortest = int(np.argmin(texts.length_S))
    ids = np.concatenate((texts.prompts[shortest], texts.completions[shortest]))
    ids_1T = torch.from_numpy(ids[None, :_PROBE_TOKENS].astype(np.int64)).to(device)
    vocabulary = int(model.get_output_embeddings().weight.shape[0])
    return Scorer(name, model, find_head(model, ids_1T), vocabulary, device, vocabulary)


@torch.no_grad()
def find_head(model: Any, ids_1T: Tensor) -> Head | None:
    """The head that, with a scale and a soft cap of the configuration, gives the model's logits.

    None if there is no such head.
    """
    module = model.get_output_embeddings()
    weight_VH, bias_V = getattr(module, "weight", None), getattr(module, "bias", None)
    mask_1T = torch.ones_like(ids_1T)
    hidden_1TH = head_input(model, ids_1T, mask_1T)
    if hidden_1TH is None or weight_VH is None or weight_VH.dim() != 2:
        return None
    if weight_VH.shape[1] != hidden_1TH.shape[-1] or not weight_VH.is_floating_point():
        return None
    wanted_TV = _forward(model, ids_1T, mask_1T)[0].float()
    raw_TV = tiles.project(hidden_1TH[0], weight_VH, bias_V)
    if raw_TV.shape != wanted_TV.shape:
        return None
    heads: list[tuple[float, Head]] = []
    for scale, softcap in product(*_candidates(model.config.get_text_config())):
        head = Head(weight_VH, bias_V, scale, softcap)
        as_model = tiles.Model(raw_TV, None, None, None, scale, softcap)
        made_TV = as_model.final_logits(raw_TV, 1.0, torch.empty_like(raw_TV))
        heads.append((float((made_TV - wanted_TV).abs().max()), head))
    error, head = min(heads, key=lambda one: one[0])
    # The model rounds its logits to its own type; another scale or cap is further off.
    tolerance = max(1e-4, 4 * torch.finfo(weight_VH.dtype).eps) * float(wanted_TV.abs().max())
    return head if error <= tolerance else None


def _candidates(config: Any) -> tuple[list[float], list[float | None]]:
    """Scales and soft caps that a configuration may mean; those it names come first."""
    scales, caps = _positive(config, _SCALES), _positive(config, _SOFTCAPS)
    inverse = [1 / scale for scale in scales]
    return list(dict.fromkeys([*scales, *inverse, 1.0])), [*dict.fromkeys(caps), None]


def _positive(config: Any, names: tuple[str, ...]) -> list[float]:
    values = (getattr(config, name, None) for name in names)
    return [float(v) for v in values if isinstance(v, (int, float)) and v > 0]


@torch.no_grad()
def head_input(model: Any, ids_BT: Tensor, mask_BT: Tensor) -> Tensor | None:
    """(B, T, H) what enters the head, which itself is given next to nothing; None if unseen."""
    seen: list[Tensor] = []

    def keep(_: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        seen.append(arguments[0])
        return (arguments[0][:1, :1], *arguments[1:])

    handle = model.get_output_embeddings().register_forward_pre_hook(keep)
    try:
        _forward(model, ids_BT, mask_BT)
    except (IndexError, TypeError):
        return None  # a head that takes something else
    finally:
        handle.remove()
    usable = len(seen) == 1 and seen[0].shape[:-1] == ids_BT.shape
    return seen[0] if usable else None


@torch.no_grad()
def _forward(model: Any, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
    logits: Tensor = model(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False).logits
    return logits


def batches(texts: Texts, batch_tokens: int, shard_rows: int) -> Iterator[tuple[Array, bool]]:
    """(numbers of texts, whether the shard ends here), the same at every call.

    A shard takes texts of consecutive ids until it has `shard_rows` positions. Within it, texts of
    like length are padded to the longest within `batch_tokens`; one at least.
    """
    length_S = texts.length_S
    before_S = texts.completions.start_S[:-1]
    start_P = np.flatnonzero(np.diff(before_S // shard_rows, prepend=-1))
    for start, stop in zip(start_P, np.append(start_P[1:], len(texts)), strict=True):
        order = start + np.argsort(length_S[start:stop], kind="stable")
        first = 0
        for at in range(1, len(order) + 1):
            last = at == len(order)
            if last or length_S[order[at]] * (at - first + 1) > batch_tokens:
                yield order[first:at], last
                first = at


def most_tokens(batch_tokens: int, *models: Scorer) -> int:
    """Padded tokens of a batch: fewer where a model makes the logits of all of them."""
    whole = [MOST_LOGITS // model.vocabulary for model in models if model.head is None]
    return max(1, min([batch_tokens, *whole]))


@dataclass(frozen=True)
class Batch:
    """Texts on the device, and the places that predicted each of their N completion tokens."""

    ids_BT: Tensor
    mask_BT: Tensor
    place_N: tuple[Tensor, Tensor]
    ids_N: Tensor
    sequence_N: Array
    position_N: Array
    token_N: Array

    @classmethod
    def of(cls, texts: Texts, batch_B: Array, device: str) -> Batch:
        """Some of the texts."""
        ids_BT, mask_BT = _padded(texts, batch_B)
        length_B = texts.completions.length_S[batch_B]
        position_N = np.concatenate([np.arange(n) for n in length_B])
        row_N = np.repeat(np.arange(len(batch_B)), length_B)
        column_N = position_N + texts.prompts.length_S[batch_B][row_N] - 1
        token_N = np.concatenate([texts.completions[i] for i in batch_B])
        return cls(
            ids_BT.to(device),
            mask_BT.to(device),
            (torch.from_numpy(row_N).to(device), torch.from_numpy(column_N).to(device)),
            torch.from_numpy(token_N.astype(np.int64)).to(device),
            texts.sequence_S[batch_B][row_N],
            position_N,
            token_N,
        )


@torch.no_grad()
def score(
    texts: Texts,
    batch_B: Array,
    student: Scorer,
    teacher: Scorer,
    wanted: Wanted,
    outside: Outside,
    projections: Projections | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Rows of the completions of some texts for fixed/ and for alternatives/, without their step.

    `outside` is told of the mass that is left out where one model has more ids; `projections`
    takes those of the teacher's hidden states, which needs a teacher with a plain head.

    Raises `DataError` for statistics that are not finite, `RocktokError` where memory runs out.
    """
    columns = set(wanted.columns)
    if any(one.shared < one.vocabulary for one in (student, teacher)):
        columns |= {"student_logprob", "teacher_logprob"}
    with _memory(student, texts, batch_B):
        batch = Batch.of(texts, batch_B, student.device)
        ours_N = student.states(batch.ids_BT, batch.mask_BT, batch.place_N)
        theirs_N = teacher.states(batch.ids_BT, batch.mask_BT, batch.place_N)
        statistics = token_statistics(
            token_ids=batch.ids_N,
            temperature=texts.temperature,
            columns=columns,
            terminal_ids=wanted.terminal_ids,
            alternatives=wanted.alternatives,
            **student.arguments(ours_N, "student"),
            **teacher.arguments(theirs_N, "teacher"),
        )
        for one, states_N, who in ((student, ours_N, "student"), (teacher, theirs_N, "teacher")):
            if one.shared < one.vocabulary:
                logprob_N = statistics[f"{who}_logprob"]
                outside.add(one.outside(states_N, batch.ids_N, logprob_N, texts.temperature))
        if projections is not None:
            _sketch(batch, theirs_N, projections)
    names = ("loss", *wanted.columns)
    found = {name: values.cpu().numpy() for name, values in statistics.items()}
    keys = {"sequence_id": batch.sequence_N, "position": batch.position_N}
    rows = {**keys, "token_id": batch.token_N, **{name: found[name] for name in names}}
    _check_finite(rows, names, student.name)
    beside = {n: v for n, v in found.items() if n.endswith(("_ids", "_probs"))}
    return rows, {**keys, **beside}


@torch.no_grad()
def sketch(texts: Texts, batch_B: Array, teacher: Scorer, projections: Projections) -> None:
    """Keep projections of the teacher's hidden states of some texts, which are not scored again."""
    with _memory(teacher, texts, batch_B):
        batch = Batch.of(texts, batch_B, teacher.device)
        states_NH = teacher.states(batch.ids_BT, batch.mask_BT, batch.place_N)
        _sketch(batch, states_NH, projections)


def _sketch(batch: Batch, states_NH: Tensor, projections: Projections) -> None:
    everywhere = torch.arange(len(states_NH), device=states_NH.device)
    projected_NK = project_hidden(states_NH, (everywhere,))
    projections.add(batch.sequence_N, batch.position_N, projected_NK)


@contextmanager
def _memory(model: Scorer, texts: Texts, batch_B: Array) -> Iterator[None]:
    """Raise `RocktokError` where memory runs out."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        tokens = len(batch_B) * int(texts.length_S[batch_B].max())
        raise RocktokError(
            f"{model.name}: no memory for a batch of {tokens:,} tokens on {model.device}; give "
            "a smaller --batch-tokens"
        ) from error


def _padded(texts: Texts, batch_B: Array) -> tuple[Tensor, Tensor]:
    """(B, T) ids and mask, padded on the right."""
    ids_BT = np.zeros((len(batch_B), int(texts.length_S[batch_B].max())), dtype=np.int64)
    mask_BT = np.zeros_like(ids_BT)
    for ids_T, mask_T, i in zip(ids_BT, mask_BT, batch_B, strict=True):
        prompt, completion = texts.prompts[i], texts.completions[i]
        ids_T[: len(prompt)] = prompt
        ids_T[len(prompt) : len(prompt) + len(completion)] = completion
        mask_T[: len(prompt) + len(completion)] = 1
    return torch.from_numpy(ids_BT), torch.from_numpy(mask_BT)


def _check_finite(rows: dict[str, Array], columns: tuple[str, ...], name: str) -> None:
    for column in columns:
        bad_N = ~np.isfinite(rows[column])
        if bad_N.any():
            row = int(np.argmax(bad_N))
            raise DataError(
                f"{name}: {column} is {rows[column][row]} at sequence {rows['sequence_id'][row]}, "
                f"position {rows['position'][row]}; give --dtype float32 or bfloat16, or leave "
                "the sequence out"
            )
