"""Hugging Face models as a backend: `generate` of transformers, with our rules and draws in it.

Shape suffixes: B rows of a batch, T tokens (padded), N scored tokens, K tokens before a place, V
vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from rocktok.errors import RocktokError
from rocktok.replay.intervene.backend import Scores
from rocktok.replay.intervene.draws import gumbel_on, row_keys
from rocktok.replay.intervene.rules import MISSING
from rocktok.replay.ragged import Ragged
from rocktok.replay.scoring import Outside, Scorer, Wanted, batches, most_tokens, score
from rocktok.replay.texts import Texts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from rocktok._types import Array
    from rocktok.replay.intervene.backend import Decoding, Span, Start
    from rocktok.replay.intervene.rules import Rule


@dataclass(frozen=True)
class TransformersBackend:
    """A student, and a teacher or None, loaded.

    Ids beyond those that both models have (`Scorer.shared`) are never written.
    """

    student: Scorer
    teacher: Scorer | None
    decoding: Decoding
    batch_tokens: int

    def __post_init__(self) -> None:
        # What a checkpoint would generate by default (penalties, nuclei) is no part of a trial.
        self.student.model.generation_config = GenerationConfig()

    @torch.no_grad()
    def generate(self, starts: Sequence[Start], rule: Rule) -> list[Array]:
        """As `Backend.generate`."""
        ids_BT, mask_BT = _left_padded(starts)
        device, decoding = self.student.device, self.decoding
        written_B = np.array([len(start.written_T) for start in starts])
        width = ids_BT.shape[1]
        most = decoding.max_new_tokens - int(written_B.min())
        config = GenerationConfig(
            do_sample=False,
            max_new_tokens=most,
            eos_token_id=list(decoding.terminal_ids) or None,
            pad_token_id=0,
            use_cache=True,
        )
        stream_B = np.array([start.stream for start in starts], dtype=np.uint64)
        pick = _Pick(rule, decoding, written_B, stream_B, width, self.student.shared)
        try:
            out_BT = self.student.model.generate(
                input_ids=ids_BT.to(device),
                attention_mask=mask_BT.to(device),
                generation_config=config,
                logits_processor=LogitsProcessorList([pick]),
                stopping_criteria=StoppingCriteriaList([_Enough(rule, decoding, written_B, width)]),
            )
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise RocktokError(
                f"{self.student.name}: not enough memory for {len(starts)} texts of "
                f"{width + most:,} tokens on {device}; give a smaller --batch-tokens"
            ) from error
        new_BT = out_BT[:, width:].cpu().numpy().astype(np.int32)
        texts = []
        for start, new_T in zip(starts, new_BT, strict=True):
            done = len(start.written_T)
            text_T = np.concatenate((start.written_T, new_T)).astype(np.int32)
            text_T = decoding.cut(text_T, done)
            if rule.pause is not None:
                place_P = np.flatnonzero(text_T[done:] == rule.pause)
                text_T = text_T[: done + int(place_P[0]) + 1] if len(place_P) else text_T
            texts.append(text_T)
        return texts

    def score(self, spans: Sequence[Span]) -> list[Scores]:
        """As `Backend.score`."""
        assert self.teacher is not None
        found = [Scores(np.zeros(0, np.float32), np.zeros(0, np.int32)) for _ in spans]
        filled = [i for i, span in enumerate(spans) if len(span.token_T)]
        if not filled:
            return found
        texts = texts_of([(spans[i].before_T, spans[i].token_T) for i in filled])
        most = most_tokens(self.batch_tokens, self.student, self.teacher)
        wanted = Wanted(alternatives=1)
        for batch_B, _ in batches(texts, most, texts.rows):
            models = (self.student, self.teacher)
            rows, beside = score(texts, batch_B, *models, wanted, Outside())
            start_B = np.flatnonzero(np.diff(rows["sequence_id"], prepend=-1))
            parts = (np.split(values, start_B[1:]) for values in
                     (rows["loss"], beside["teacher_ids"][:, 0]))  # fmt: skip
            for i, loss_T, teacher_T in zip(batch_B, *parts, strict=True):
                found[filled[i]] = Scores(loss_T, teacher_T.astype(np.int32))
        return found


def texts_of(pairs: Sequence[tuple[Array, Array]]) -> Texts:
    """(before, tokens) as texts that are scored."""
    before, tokens = ([pair[side] for pair in pairs] for side in (0, 1))
    ragged = [Ragged.of(np.concatenate(part), np.array([len(ids) for ids in part]))
              for part in (before, tokens)]  # fmt: skip
    return Texts("the completions", np.arange(len(pairs)), None, ragged[0], ragged[1], None)


class _Pick(LogitsProcessor):  # type: ignore[misc]
    """Forbids tokens and adds the draws, so that the largest score is the token to write."""

    def __init__(
        self,
        rule: Rule,
        decoding: Decoding,
        written_B: Array,
        stream_B: Array,
        width: int,
        shared: int,
    ) -> None:
        self.rule, self.decoding = rule, decoding
        self.written_B, self.stream_B = written_B, stream_B
        self.width, self.shared = width, shared

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        position_B = self.written_B + (input_ids.shape[1] - self.width)
        scores = scores.clone()
        scores[:, self.shared :] = -torch.inf
        banned_B = self.rule.bans(self._before(input_ids, position_B), len(scores))
        if banned_B.any():
            scores[torch.from_numpy(banned_B).to(scores.device), self.rule.banned] = -torch.inf
        if self.decoding.greedy:
            return scores
        noise_BV = gumbel_on(row_keys(self.stream_B, position_B), scores.shape[1], scores.device)
        drawn: Tensor = scores.double() / self.decoding.temperature + noise_BV
        return drawn

    def _before(self, ids_BT: Tensor, position_B: Array) -> Array | None:
        """(B, K) the completion's last tokens: they end the padded rows."""
        if self.rule.contexts is None:
            return None
        width = self.rule.contexts.width
        last_BK = np.full((len(ids_BT), width), MISSING, dtype=np.int32)
        have = min(width, ids_BT.shape[1])
        last_BK[:, width - have :] = ids_BT[:, ids_BT.shape[1] - have :].cpu().numpy()
        # What stands further left than the completion begins is the prompt's.
        last_BK[np.arange(width, 0, -1)[None] > position_B[:, None]] = MISSING
        return last_BK


class _Enough(StoppingCriteria):  # type: ignore[misc]
    """Ends the rows that are as long as they may be, or have come to a pause."""

    def __init__(self, rule: Rule, decoding: Decoding, written_B: Array, width: int) -> None:
        self.rule, self.width = rule, width
        self.left_B = torch.from_numpy(decoding.max_new_tokens - written_B)

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        done_B = (input_ids.shape[1] - self.width >= self.left_B).to(input_ids.device)
        if self.rule.pause is not None:
            done_B = done_B | (input_ids[:, -1] == self.rule.pause)
        return done_B


def _left_padded(starts: Sequence[Start]) -> tuple[Tensor, Tensor]:
    """(B, T) ids and mask."""
    longest = max(len(start.prompt_T) + len(start.written_T) for start in starts)
    ids_BT = np.zeros((len(starts), longest), dtype=np.int64)
    mask_BT = np.zeros_like(ids_BT)
    for ids_T, mask_T, start in zip(ids_BT, mask_BT, starts, strict=True):
        whole_T = np.concatenate((start.prompt_T, start.written_T))
        ids_T[longest - len(whole_T) :] = whole_T
        mask_T[longest - len(whole_T) :] = 1
    return torch.from_numpy(ids_BT), torch.from_numpy(mask_BT)
