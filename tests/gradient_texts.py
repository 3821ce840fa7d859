"""Texts, logits and their gradients by autograd, for the tests of gradient sums.

Shape suffixes: N scored positions of all texts, B texts, K tokens, V vocabulary, T types, H halves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor

from rocktok.hashing import halves, prompt_hash
from rocktok.hooks.gradient_request import GradientRequest
from rocktok.hooks.gradients import GradientSums
from rocktok.hooks.rollouts import Rollout, prompt_identity
from rocktok.hooks.statistics import token_statistics
from rocktok.log import LogWriter

VOCABULARY = 300
LENGTH = 9


@dataclass(frozen=True)
class Texts:
    """Two sequences to a prompt; `options` are arguments of `token_statistics`."""

    rollouts: list[Rollout]
    student_BKV: Tensor
    teacher_BKV: Tensor
    options: dict[str, Any]

    def gradients(self) -> np.ndarray:
        """(N, V) float64 by autograd from the definition of the loss."""
        student_BKV = self.student_BKV.double().requires_grad_()
        loss = self._loss(student_BKV)
        (gradient_BKV,) = torch.autograd.grad(loss, student_BKV)
        return np.asarray(gradient_BKV[torch.from_numpy(self.mask())])

    def _loss(self, student_BKV: Tensor) -> Tensor:
        logp = self._final(student_BKV, "student").log_softmax(-1)
        logq = self._final(self.teacher_BKV.double(), "teacher").log_softmax(-1)
        return (logp.exp() * (logp - logq)).sum()

    def _final(self, raw_BKV: Tensor, who: str) -> Tensor:
        logits = raw_BKV * self.options.get(f"{who}_logit_scale", 1.0)
        cap = self.options.get(f"{who}_softcap")
        if cap is not None:
            logits = cap * torch.tanh(logits / cap)
        return logits / self.options.get("temperature", 1.0)

    def mask(self) -> np.ndarray:
        return np.stack([r.loss_mask for r in self.rollouts]) != 0

    def tokens(self) -> np.ndarray:
        return np.stack([r.completion_token_ids for r in self.rollouts])[self.mask()]

    def sequences(self) -> np.ndarray:
        ids = np.repeat([r.sequence_id for r in self.rollouts], LENGTH).reshape(-1, LENGTH)
        return ids[self.mask()]

    def halves(self, seed: int = 0) -> np.ndarray:
        hashes = np.array([prompt_hash(r.prompt_id) for r in self.rollouts], dtype=np.uint64)
        return np.repeat(halves(hashes, seed), LENGTH).reshape(-1, LENGTH)[self.mask()]

    def part(self, rows: slice) -> Texts:
        return Texts(
            self.rollouts[rows], self.student_BKV[rows], self.teacher_BKV[rows], self.options
        )


def make_texts(count: int = 12, seed: int = 0, types: int = 12, **options: Any) -> Texts:
    """Texts over a few of the types, with gaps in the loss mask, and peaked logits."""
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    rollouts = []
    for number in range(count):
        prompt = np.array([number // 2, seed], dtype=np.int32)
        mask = (rng.random(LENGTH) < 0.85).astype(np.int8)
        rollouts.append(
            Rollout(
                sequence_id=100 + number,
                step=0,
                prompt_id=prompt_identity(prompt),
                prompt_token_ids=prompt,
                completion_token_ids=rng.integers(0, types, LENGTH).astype(np.int32),
                loss_mask=mask,
                finish_reason="stop",
            )
        )
    student = torch.randn(count, LENGTH, VOCABULARY, generator=generator) * 3
    teacher = student + torch.randn(count, LENGTH, VOCABULARY, generator=generator)
    return Texts(rollouts, student, teacher, options)


def score(sums: GradientSums, texts: Texts) -> dict[str, Tensor]:
    """One pass over these texts, whose gradients go into the sums."""
    return token_statistics(
        token_ids=torch.from_numpy(np.stack([r.completion_token_ids for r in texts.rollouts])),
        student_logits=texts.student_BKV,
        teacher_logits=texts.teacher_BKV,
        mask=torch.from_numpy(texts.mask()),
        gradients=sums.batch(texts.sequences(), texts.tokens()),
        **texts.options,
    )


def sums_of(
    texts: Texts,
    request: GradientRequest,
    everyone: Sequence[Rollout] | None = None,
    batch: int = 5,
) -> GradientSums:
    """Sums of these texts, in batches."""
    sums = GradientSums(request, texts.rollouts, everyone or texts.rollouts, vocabulary=VOCABULARY)
    for start in range(0, len(texts.rollouts), batch):
        score(sums, texts.part(slice(start, start + batch)))
    return sums


def reference(texts: Texts, types: Sequence[int], seed: int = 0) -> dict[tuple[int, str, int], Any]:
    """(half, kind, token) → count, Σ‖g‖, Σ‖g‖², Σ g, straight from the definitions."""
    gradient_NV, token_N, half_N = texts.gradients(), texts.tokens(), texts.halves(seed)
    n_N = np.bincount(token_N)[token_N]
    found = {}
    for half in range(2):
        chosen = {("global", -1): half_N == half, ("balanced", -1): half_N == half}
        chosen |= {("type", t): (half_N == half) & (token_N == t) for t in types}
        for (kind, token), where_N in chosen.items():
            if not where_N.any():
                continue
            terms = gradient_NV[where_N]
            if kind == "balanced":
                terms = terms / n_N[where_N][:, None]
            norms = np.linalg.norm(terms, axis=1)
            found[half, kind, token] = (
                len(terms), norms.sum(), (norms**2).sum(), terms.sum(axis=0)
            )  # fmt: skip
    return found


def write_gradients(
    path: Path, columns: dict[str, Any], step: int = 10, run: dict[str, Any] | None = None,
    **writer: Any,
) -> Path:  # fmt: skip
    """One rank's sums at one step, and a row of fixed text, without which there is no log."""
    run = {"vocab_size": VOCABULARY} if run is None else run
    with LogWriter(path, run=run, **writer) as log:
        rank = writer.get("rank", 0)
        log.write(
            {"step": step, "sequence_id": [rank], "position": [0], "token_id": [1], "loss": [0.5]},
            table="fixed",
        )
        log.write({"step": step, **columns}, table="gradients")
    return path
