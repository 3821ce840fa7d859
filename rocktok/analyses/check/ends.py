"""How sure each model is that a text ends where it ended.

E: the run's terminal ids, of both tokenizers. Of a text that stopped, at its last token x: `on`,
the probability of x itself, and the mass of all of E, exact where the log has the columns
`student_end` and `teacher_end`. Else the likeliest tokens bound it: from below by what they tell of
E, from above by as much as is left for the ids that they do not tell. Else it is at least `on`.

Array suffixes: N rows of a batch; S stopped sequences; K tokens of a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from rocktok._types import Array
from rocktok.analyses.check.estimators import ABSOLUTE, RELATIVE
from rocktok.analyses.check.measures import Derived, Stopped, text_rows
from rocktok.stats.accumulator import Batch
from rocktok.stats.arrays import is_among
from rocktok.stats.bootstrap import PromptBootstrap
from rocktok.stats.intervals import Estimate

MODELS = ("student", "teacher")

#: How the mass of the terminal ids is known.
Known = Literal["exact", "bounds", "token"]


def how_known(model: str, columns: list[str], alternatives: bool, terminal: Array) -> Known | None:
    """How a model's end mass is known of a table with these columns; None: not at all."""
    if f"{model}_end" in columns:
        return "exact"
    if alternatives and len(terminal):
        return "bounds"
    return "token" if f"{model}_logprob" in columns else None


def end_mass(ids_NK: Array, probs_NK: Array, terminal: Array) -> tuple[Array, Array]:
    """Least and largest mass of some ids at N positions, of which the likeliest are told.

    Args:
        ids_NK: token ids, likeliest first.
        probs_NK: their probabilities.
        terminal: ascending ids.
    """
    probs_NK = probs_NK.astype(np.float64)
    end_NK = is_among(ids_NK, terminal)
    told_N = np.where(end_NK, probs_NK, 0.0).sum(axis=1)
    rounded = probs_NK.shape[1] * ABSOLUTE
    left_N = np.maximum(0.0, 1 - probs_NK.sum(axis=1) * (1 - RELATIVE) + rounded)
    untold_N = len(terminal) - end_NK.sum(axis=1)
    each_N = probs_NK[:, -1] * (1 + RELATIVE) + ABSOLUTE
    return told_N, np.minimum(1.0, told_N + np.minimum(left_N, untold_N * each_N))


@dataclass(frozen=True)
class _Ends:
    stopped: Stopped
    terminal: Array
    known: tuple[tuple[str, Known], ...]

    def __call__(self, batch: Batch) -> Batch:
        at = self.stopped.rows(batch)
        bounded = any(how == "bounds" for _, how in self.known)
        if bounded:
            at = at[batch["has_alternatives"][at]]
        rows = text_rows(batch, at)
        for model, how in self.known:
            logprob_N = batch.get(f"{model}_logprob")
            if logprob_N is not None:
                rows[f"{model}_on"] = np.exp(logprob_N[at].astype(np.float64))
            if how == "exact":
                least = most = batch[f"{model}_end"][at].astype(np.float64)
            elif how == "bounds":
                ids, probs = (batch[f"{model}_{part}"][at] for part in ("ids", "probs"))
                least, most = end_mass(ids, np.nan_to_num(probs), self.terminal)
                if logprob_N is not None:
                    # The text's own token may be one that is not told.
                    own = is_among(batch["token_id"][at], self.terminal)
                    least = np.maximum(least, np.where(own, rows[f"{model}_on"], 0.0))
                    most = np.maximum(least, most)
            else:
                least, most = rows[f"{model}_on"], np.ones(len(at))
            for end, mass in (("least", least), ("most", most)):
                # Sums of their own: where one is small, few texts carry it, but all carry the rest.
                rows[f"{model}_{end}"], rows[f"{model}_rest_{end}"] = mass, 1 - mass
                if logprob_N is not None:
                    rows[f"{model}_other_{end}"] = np.maximum(0.0, mass - rows[f"{model}_on"])
        return rows


class Ends:
    """Sums over stopped texts: an accumulator.

    Args:
        stopped: which texts, and where they end.
        terminal: ascending ids of E; none where they are not known.
        columns: of the table.
        alternatives: whether rows come with the likeliest tokens.
        seed, replicates: of the bootstrap.
    """

    def __init__(
        self,
        stopped: Stopped,
        terminal: Array,
        columns: list[str],
        *,
        alternatives: bool,
        seed: int,
        replicates: int,
    ) -> None:
        found = ((model, how_known(model, columns, alternatives, terminal)) for model in MODELS)
        self.known: dict[str, Known] = {model: how for model, how in found if how is not None}
        self.on = {model for model in self.known if f"{model}_logprob" in columns}
        needs = {"token_id", "sequence_id", "prompt", "position"}
        needs |= {f"{model}_logprob" for model in self.on}
        quantities = [""]
        for model, how in self.known.items():
            parts = ["", "rest_", *(["other_"] if model in self.on else [])]
            quantities += [f"{model}_{part}{end}" for part in parts for end in ("least", "most")]
            needs |= {f"{model}_end"} if how == "exact" else set()
            if how == "bounds":
                needs |= {"has_alternatives", f"{model}_ids", f"{model}_probs"}
        self._sums = PromptBootstrap(np.zeros(1, np.int64), tuple(quantities), seed, replicates)
        derive = _Ends(stopped, terminal, tuple(self.known.items()))
        self._derived = Derived(tuple(sorted(needs)), derive, self._sums)
        self.needs = self._derived.needs

    def update(self, batch: Batch) -> None:
        """Add a batch of whole sequences."""
        self._derived.update(batch)

    def merge(self, other: Ends) -> None:
        """Add another's."""
        self._derived.merge(other._derived)

    @property
    def texts(self) -> int:
        """Stopped texts that were seen."""
        return int(self._sums.of("").value)

    def sum(self, quantity: str) -> Estimate:
        """Sum over the texts: of a model's end mass (`teacher_least`, `teacher_most`), of what is
        left of 1 (`teacher_rest_…`), of the part on other tokens than the text's (`…_other_…`)."""
        return self._sums.of(quantity)

    def mean(self, quantity: str) -> Estimate:
        """Mean of the same."""
        return self._sums.of(quantity) / self._sums.of("")
