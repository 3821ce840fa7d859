"""What sequences/ says of every text: when it was written, how long it is, how it ended."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

import rocktok.schema as schema
from rocktok._types import Array
from rocktok.analyses.check.grading import Number
from rocktok.analyses.check.measures import Stopped
from rocktok.log.catalogue import Log
from rocktok.log.checks import Where, check_values, to_numpy
from rocktok.log.labels import label_codes
from rocktok.log.sequences import Prompts
from rocktok.stats.bootstrap import PromptBootstrap

_COLUMNS = ("sequence_id", "step", "num_tokens")

#: Sequences whose sums are made at once.
_BLOCK = 1 << 18


@dataclass(frozen=True)
class Texts:
    """Texts whose end is known, ascending by id. 17 bytes each.

    Attributes:
        sequence_S: ids.
        step_S: when each was generated.
        tokens_S: tokens of each.
        cut_S: whether it was cut; else a terminal token ended it.
    """

    sequence_S: Array
    step_S: Array
    tokens_S: Array
    cut_S: Array

    @property
    def stopped(self) -> Stopped:
        """Those that a terminal token ended."""
        kept_S = ~self.cut_S & (self.tokens_S > 0)
        return Stopped(self.sequence_S[kept_S], self.tokens_S[kept_S] - 1)


def load_texts(log: Log) -> Texts:
    """Read sequences/, superseded rows left out; none of those without a finish_reason."""
    parts: list[tuple[Array, ...]] = [
        (np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, bool))
    ]
    for shard in log.shards("sequences"):
        opened = log.open(shard, schema.required_names("sequences"))
        if "finish_reason" not in opened.columns:
            continue
        limit = log.limit_of(opened.attempt)
        for group, _ in opened.groups():
            where = Where(opened.name, group)
            table = opened.read_group(group, [*_COLUMNS, "finish_reason"])
            rows = {name: to_numpy(table[name], name, where) for name in _COLUMNS}
            check_values(rows, log.rules, where)
            labels, code_N = label_codes(table["finish_reason"], "finish_reason", where, nulls=True)
            # The last: of rows without one, whose code is −1.
            known = np.array([label in ("stop", "length") for label in labels] + [False])
            cut = np.array([label == "length" for label in labels] + [False])
            kept_N = known[code_N]
            if limit is not None:
                kept_N &= rows["step"] < limit
            parts.append((*(rows[name][kept_N] for name in _COLUMNS), cut[code_N][kept_N]))
    sequence_S, step_S, tokens_S, cut_S = (
        np.concatenate(column) for column in zip(*parts, strict=True)
    )
    order = np.argsort(sequence_S, kind="stable")
    return Texts(sequence_S[order], step_S[order], tokens_S[order], cut_S[order])


def cut_shares(
    texts: Texts, prompts: Prompts, seed: int, replicates: int
) -> tuple[Number, Number, Number]:
    """Share of texts that were cut: in all, in the last third of the steps, and by how much more
    than in the first third.

    Of fewer than three steps the second is of all, and the third is nothing.
    """
    sums = PromptBootstrap(np.arange(3), ("", "cut"), seed, replicates)
    steps = np.unique(texts.step_S)
    third_S = (3 * np.searchsorted(steps, texts.step_S)) // max(1, len(steps))
    for start in range(0, len(third_S), _BLOCK):
        part = slice(start, start + _BLOCK)
        sequence_S = texts.sequence_S[part]
        sums.update(
            {
                "token_id": third_S[part],
                "sequence_id": sequence_S,
                "prompt": prompts.of(sequence_S),
                "cut": texts.cut_S[part].astype(np.float64),
            }
        )
    overall = Number.of(sums.of("cut") / sums.of(""), most=1.0)
    if len(steps) < 3:
        return overall, overall, Number(None)
    first, last = (
        sums.of("cut", np.array([third])) / sums.of("", np.array([third])) for third in (0, 2)
    )
    rise = Number.of(last - first, positive=False)
    return overall, Number.of(last, most=1.0), rise
