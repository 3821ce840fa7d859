"""Models, tokenizers and what both agree on, loaded for `intervene`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from rocktok.errors import LogError
from rocktok.hooks.terminals import special_ids, terminal_ids
from rocktok.hooks.vocabulary import vocabulary
from rocktok.log.vocab import Vocab
from rocktok.replay.checks import shared_ids, vocab_of
from rocktok.replay.intervene.transformers_backend import TransformersBackend, texts_of
from rocktok.replay.models import (
    declared_ends,
    fingerprint,
    load_config,
    load_model,
    load_tokenizer,
)
from rocktok.replay.scoring import scorer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rocktok._types import Array
    from rocktok.replay.intervene.backend import Decoding
    from rocktok.replay.scoring import Scorer


@dataclass(frozen=True)
class Models:
    """A student and a teacher that fit each other, before their weights are loaded.

    Attributes:
        names: of the student, and of the teacher where there is one.
        tokenizer: the student's.
        shared: number of ids that both have.
        terminal_ids: that end a completion: the student's.
        special_ids: of the student's tokenizer.
        vocab: texts of its token ids.
        longest: tokens that each model takes; None: no limit is known.
        notes: what a reader of the results must know.
    """

    names: tuple[str, ...]
    tokenizer: Any
    shared: int
    terminal_ids: tuple[int, ...]
    special_ids: tuple[int, ...]
    vocab: Vocab
    longest: int | None
    notes: tuple[str, ...]

    @property
    def weights(self) -> dict[str, str | None]:
        """Model → fingerprint."""
        return {name: fingerprint(name) for name in self.names}

    def backend(
        self, prompts: Sequence[Array], decoding: Decoding, dtype: str, device: str, batch: int
    ) -> TransformersBackend:
        """The weights loaded. Raises `RocktokError` where they cannot be."""
        texts = texts_of([(prompt, np.zeros(0, np.int32)) for prompt in prompts])
        loaded: list[Scorer] = []
        for name in self.names:
            made = scorer(name, load_model(name, dtype, device), texts, device)
            if made.vocabulary < self.shared:
                raise LogError(
                    f"{name}: has {made.vocabulary:,} logits, its config.json says more; give what "
                    "save_pretrained writes"
                )
            loaded.append(replace(made, shared=self.shared))
        teacher = loaded[1] if len(loaded) > 1 else None
        return TransformersBackend(loaded[0], teacher, decoding, batch)


def models_of(student: str, teacher: str | None) -> Models:
    """What the configurations and tokenizers of the models say.

    Raises `RocktokError` for what is no model, a student without tokenizer, and tokenizers that
    differ.
    """
    names = (student,) if teacher is None else (student, teacher)
    configs = {name: load_config(name) for name in names}
    tokenizers = {name: load_tokenizer(name) for name in configs}
    tokenizer = tokenizers[student]
    if tokenizer is None:
        raise LogError(
            f"{student}: has no tokenizer, which prompts and answers need; save it there, too"
        )
    vocab, without = vocab_of(texts_of([(np.zeros(1), np.zeros(1))]), tokenizers)
    widths = {name: int(config.vocab_size) for name, config in configs.items()}
    shared = shared_ids(widths, vocab, without)
    ends = terminal_ids(tokenizer, *declared_ends(student))
    room = [getattr(config, "max_position_embeddings", None) for config in configs.values()]
    known = [most for most in room if isinstance(most, int) and most > 0]
    notes = [f"{name}: has no tokenizer; its tokens are not checked" for name in without]
    if shared < widths[student]:
        notes.append(
            f"{student}: only the {shared:,} token ids that both models have are written, of "
            f"{widths[student]:,}"
        )
    if not ends:
        notes.append(
            f"{student}: names no token that ends a completion; all are as long as they may be"
        )
    return Models(
        names,
        tokenizer,
        shared,
        tuple(v for v in ends if v < shared),
        tuple(special_ids(tokenizer)),
        # Texts as a log has them, so that its identity is the same.
        Vocab({i: raw.decode("utf-8", "backslashreplace") for i, _, raw in vocabulary(tokenizer)}),
        min(known, default=None),
        tuple(notes),
    )
