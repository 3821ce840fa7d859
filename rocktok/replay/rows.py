"""What is written of a text that is scored again: its sequences, and the rows that do not stand."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from rocktok._types import Array

if TYPE_CHECKING:
    from rocktok.log import LogWriter
    from rocktok.replay.resume_state import Standing
    from rocktok.replay.texts import Texts

#: Sequences written to sequences/ at once.
_SEQUENCE_ROWS = 100_000


@dataclass(frozen=True)
class Missing:
    """The sequences, of S, whose rows do not stand yet at a step; a kill leaves either without."""

    sequence_S: Array
    stands: Standing
    step: int
    with_alternatives: bool
    by_table: dict[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        stand = {"fixed": self.stands.at(self.step)}
        if self.with_alternatives:
            stand["alternatives"] = self.stands.alternatives_at(self.step)
        for table, id_S in stand.items():
            self.by_table[table] = ~np.isin(self.sequence_S, id_S)

    @property
    def any_S(self) -> Array:
        """(S,) whether a row is missing in either table."""
        any_S: Array = np.logical_or.reduce(list(self.by_table.values()))
        return any_S

    def write(self, writer: LogWriter, table: str, rows: dict[str, Any]) -> None:
        """Write those of some rows that are missing in a table."""
        if table not in self.by_table:
            return
        missing_S = self.sequence_S[self.by_table[table]]
        due_N = np.isin(rows["sequence_id"], missing_S)
        if not due_N.all():
            rows = {name: values[due_N] for name, values in rows.items()}
        writer.write({"step": self.step, **rows}, table=table)


def write_sequences(writer: LogWriter, texts: Texts, stands: Standing) -> None:
    """The sequences/ that do not stand yet, in parts."""
    missing_S = np.flatnonzero(~np.isin(texts.sequence_S, stands.listed))
    left = texts if len(missing_S) == len(texts) else texts.take(missing_S)
    for first in range(0, len(left), _SEQUENCE_ROWS):
        last = min(first + _SEQUENCE_ROWS, len(left))
        facts = left.facts.slice(first, last - first).combine_chunks()
        writer.write(
            {
                **{name: facts[name].combine_chunks() for name in facts.column_names},
                "sequence_id": left.sequence_S[first:last],
                "num_tokens": left.completions.length_S[first:last],
                "prompt_id": left.prompt_id_S[first:last],
                "prompt_token_ids": left.prompts.to_lists(first, last),
            },
            table="sequences",
        )
        writer.flush()
