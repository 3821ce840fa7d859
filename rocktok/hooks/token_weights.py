"""The weight of each target token of a batch: λ where it is selected, else 1.

A target is selected if its type is, or if it stands within `radius` positions of a place whose
context matches that of a retained occurrence. The whole completion is known in training, so the
tokens after a place count as those before it do.

Array suffixes: B sequences; T positions of completions; M windows; P places; K offsets.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from rocktok.errors import HookError, RocktokError
from rocktok.files import local_path
from rocktok.weighting import (
    MISSING,
    NORMALIZATION,
    Weights,
    WindowContexts,
    check_radius,
    check_weight,
    outside_vocabulary,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping

    import torch

#: `select` of weights that come from no file of `rocktok weights`.
GIVEN = "given"

#: Slack of a share of equal offsets that is compared with γ, as in `rocktok detect`.
_SLACK = 1e-9
#: Comparisons of tokens that are held at once.
_COMPARISONS = 1 << 24


@dataclass(frozen=True)
class TokenWeights:
    """Weights of target tokens for a trainer; see `rocktok.hooks.trl.attach` and `attach_weights`.

    The weighted loss of a batch is Σ weight·loss over its tokens, divided by the same number of
    tokens as without weights, so that `weight` leaves the scale of the other tokens alone.

    Example: tokens that `rocktok weights` selected, and token ids of your own::

        TokenWeights.load("weights.json")
        TokenWeights([271, 18], weight=0.0)

    Args:
        token_ids: types whose occurrences are weighted.
        weight: λ, 0 or more; 0: their losses are left out, and not computed.
        radius: positions on each side of a matching context that are weighted, too.
        contexts: windows of retained occurrences that contexts are matched with.
        select: how the types were selected, for the log.
        sha256: of the file that they come from; None: of what this holds.
        token_texts: texts of `token_ids`, which the trainer's tokenizer must have, too; None: not
            known.

    Raises `HookError` for a value out of range, and for a radius without contexts.
    """

    token_ids: tuple[int, ...]
    weight: float
    radius: int = 0
    contexts: WindowContexts | None = None
    select: str = GIVEN
    sha256: str | None = None
    token_texts: tuple[str, ...] | None = None

    def __init__(
        self,
        token_ids: Iterable[int],
        weight: float,
        radius: int = 0,
        contexts: WindowContexts | None = None,
        *,
        select: str = GIVEN,
        sha256: str | None = None,
        token_texts: Iterable[str] | None = None,
    ) -> None:
        ids = tuple(token_ids)
        for token in ids:
            if not hasattr(token, "__index__") or isinstance(token, bool) or token < 0:
                raise HookError(f"TokenWeights: token_ids holds {token!r}, which is not a token id")
        try:
            check_weight(weight)
            check_radius(radius)
        except RocktokError as error:
            raise HookError(f"TokenWeights: {error}") from error
        if radius and contexts is None:
            raise HookError(
                f"TokenWeights: radius is {radius}, but there are no contexts to match; give "
                "contexts, or radius=0"
            )
        fields = {
            "token_ids": tuple(dict.fromkeys(int(token) for token in ids)),
            "weight": float(weight),
            "radius": int(radius),
            "contexts": contexts,
            "select": select,
            "sha256": sha256,
            "token_texts": None if token_texts is None else tuple(token_texts),
        }
        for name, value in fields.items():
            object.__setattr__(self, name, value)
        if sha256 is None:
            content = json.dumps(self.to_dict(), sort_keys=True).encode()
            object.__setattr__(self, "sha256", hashlib.sha256(content).hexdigest())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> TokenWeights:
        """Read a file of `rocktok weights`. Raises `LogError` for one that is damaged or none."""
        weights = Weights.load(path)
        digest = hashlib.sha256(local_path(path).read_bytes()).hexdigest()
        return cls.of_weights(weights, sha256=digest)

    @classmethod
    def of_weights(cls, weights: Weights, *, sha256: str | None = None) -> TokenWeights:
        """Those of a result of `rocktok.weights`."""
        return cls(
            weights.token_ids,
            weights.weight,
            weights.radius,
            weights.contexts,
            select=weights.select,
            sha256=sha256 or hashlib.sha256(weights.to_json().encode()).hexdigest(),
            token_texts=weights.token_texts,
        )

    def of(self, target_ids: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Weights (B, T), float32, of the tokens that are predicted; 1 where `mask` is 0.

        Args:
            target_ids: (B, T) completion tokens, each at its own place: the weight belongs to the
                token that is predicted, not to the one that it is predicted from.
            mask: (B, T) not 0 where a token counts in the loss; others (padding, a tool's output)
                have no weight and are empty places in contexts. None: all count.
        """
        import torch

        weight_BT = torch.ones(target_ids.shape, dtype=torch.float32, device=target_ids.device)
        return weight_BT.masked_fill(self.selected(target_ids, mask), self.weight)

    def selected(self, target_ids: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Whether each target (B, T) has the weight λ. Arguments as `of`."""
        import torch

        counts_BT = torch.ones_like(target_ids, dtype=torch.bool) if mask is None else mask != 0
        wanted = torch.tensor(self.token_ids, dtype=target_ids.dtype, device=target_ids.device)
        found_BT = torch.isin(target_ids, wanted)
        if self.contexts is not None and self.contexts.windows:
            near_BT = self._matches(target_ids, counts_BT)
            if self.radius:
                width = 2 * self.radius + 1
                spread = torch.nn.functional.max_pool1d(
                    near_BT.float(), width, stride=1, padding=self.radius
                )
                near_BT = spread > 0
            found_BT = found_BT | near_BT
        return found_BT & counts_BT

    def _matches(self, target_ids: torch.Tensor, counts_BT: torch.Tensor) -> torch.Tensor:
        """Whether the context of each place is that of a window of its token.

        That is: the share of offsets that hold the same token in both is at least γ. Offsets before
        a place always count; those after it count where the completion goes on that far. An empty
        place is like no token.
        """
        import torch

        contexts = self.contexts
        assert contexts is not None
        before, after = contexts.before, contexts.after
        text_BT = torch.where(counts_BT, target_ids, MISSING)
        padded = torch.nn.functional.pad(text_BT, (before, after), value=MISSING)
        around_BTK = padded.unfold(1, before + 1 + after, 1)
        offsets = [k for k in range(before + 1 + after) if k != before]
        # How far a completion goes: up to its last token that counts.
        place_T = torch.arange(text_BT.shape[1], device=text_BT.device)
        length_B = torch.where(counts_BT, place_T + 1, 0).amax(1, keepdim=True)
        there_BT = before + torch.clamp(length_B - 1 - place_T, min=0, max=after)
        matches_BT = torch.zeros_like(counts_BT)
        for token, window_MK in self._windows.items():
            places = ((target_ids == token) & counts_BT).nonzero(as_tuple=True)
            if not len(places[0]):
                continue
            around_PK = around_BTK[places][:, offsets]
            least_P = (contexts.min_similarity - _SLACK) * there_BT[places].double()
            theirs_MK = torch.tensor(window_MK, dtype=around_PK.dtype, device=around_PK.device)
            found = [
                ((part_PK[:, None] == theirs_MK) & (part_PK[:, None] >= 0)).sum(-1).amax(1)
                for part_PK in torch.split(
                    around_PK, max(1, _COMPARISONS // max(1, theirs_MK.numel()))
                )
            ]
            equal_P = torch.cat(found).double()
            # At a text's only token, with windows that look ahead, there is nothing to compare.
            matches_BT[places] = (equal_P >= least_P) & (equal_P > 0)
        return matches_BT

    @cached_property
    def _windows(self) -> dict[int, list[list[int]]]:
        """Token id → its windows, without the centre."""
        by_token: dict[int, list[list[int]]] = {}
        for window in self.contexts.windows if self.contexts is not None else ():
            by_token.setdefault(window.token_id, []).append([*window.left, *window.right])
        return by_token

    def check_vocabulary(self, size: int | None) -> None:
        """Raise `HookError` for an id that a model of `size` logits does not have."""
        outside = outside_vocabulary((*self.token_ids, *self._windows), size)
        if outside is not None:
            raise HookError(
                f"TokenWeights: token id {outside} is outside the vocabulary of {size}; were these "
                "weights made from another model's log?"
            )

    def check_texts(self, texts: Mapping[int, str]) -> None:
        """Raise `HookError` where a token has another text in `texts` than in the weights file.

        An id that either has no text for is passed over.
        """
        for token, text in zip(self.token_ids, self.token_texts or (), strict=False):
            theirs = texts.get(token, text)
            if text not in (theirs, f"<id {token}>"):
                raise HookError(
                    f"TokenWeights: token {token} is {text!r} in the weights file and {theirs!r} "
                    "in this trainer's tokenizer; make the weights from a log of this tokenizer"
                )

    def facts(self) -> dict[str, Any]:
        """What the log's run.json says of the weights of its training."""
        return {
            "sha256": self.sha256,
            "select": self.select,
            "weight": self.weight,
            "radius": self.radius,
            "normalization": NORMALIZATION,
            "token_types": len(self.token_ids),
            "windows": 0 if self.contexts is None else len(self.contexts.windows),
        }

    def to_dict(self) -> dict[str, Any]:
        """All that decides which weight a token has, as JSON can hold it."""
        return {
            "token_ids": list(self.token_ids),
            "weight": self.weight,
            "radius": self.radius,
            "contexts": None if self.contexts is None else asdict(self.contexts),
        }
