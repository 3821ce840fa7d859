"""What `intervene` returns: what was written, and each arm in a line."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from rocktok.errors import printable

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class ArmRow:
    """One arm.

    Attributes:
        fired: completions in which it acted, of all.
        changed_right, changed_wrong: completions that became right, and that became wrong.
        truncated: completions that were cut at the limit of tokens.
        accuracy: share of the completions that are right.
        delta: accuracy less the baseline's.
    """

    arm: str
    token_id: int
    token: str
    mode: str
    group: str
    control_of: int | None
    fired: int
    changed_right: int
    changed_wrong: int
    truncated: int
    accuracy: float
    delta: float


@dataclass(frozen=True)
class Skipped:
    """An arm without rows: it would act in no completion of the baseline."""

    arm: str
    token_id: int
    mode: str
    group: str
    control_of: int | None


@dataclass(frozen=True)
class Intervened:
    """What was written.

    Attributes:
        output: the table of outcomes.
        problems: number of problems.
        completions: of each arm: problems times seeds times rollouts.
        accuracy: of each baseline.
        truncated: completions of each baseline that were cut at the limit of tokens.
        arms: those with rows, in the order of the table.
        never_fired: arms that would act in no completion of the baseline.
        notes: what a reader of the outcomes must know.
    """

    SCHEMA: ClassVar[str] = "rocktok.intervene/1"

    output: str
    problems: int
    completions: int
    accuracy: tuple[float, ...]
    truncated: tuple[int, ...]
    arms: tuple[ArmRow, ...]
    never_fired: tuple[Skipped, ...]
    notes: tuple[str, ...]

    def answer(self) -> list[str]:
        """What happened, and how sure it is."""
        arms = len(self.arms) + len(self.never_fired)
        acted = f"{len(self.arms)} of {arms} arms acted"
        if self.arms:
            changed = [row.changed_right + row.changed_wrong for row in self.arms]
            share = max(changed) / self.completions
            acted += f"; the most that one changed is {share:.1%} of the answers"
        several = f" ({len(self.accuracy)} baselines)" if len(self.accuracy) > 1 else ""
        return [
            f"Accuracy {self.accuracy[0]:.1%} without intervention{several}; {acted}.",
            f"{self.problems:,} problems, {self.completions:,} completions per arm; "
            "`rocktok pillars` tests the differences.",
        ]

    @cached_property
    def table(self) -> pd.DataFrame:
        """The arms as a pandas DataFrame."""
        import pandas as pd

        names = list(ArmRow.__dataclass_fields__)
        frame = pd.DataFrame([asdict(row) for row in self.arms], columns=names)
        return frame.astype({"control_of": "Int64"})

    def to_json(self) -> str:
        """JSON of the schema and every field."""
        content = {"schema": self.SCHEMA, **asdict(self)}
        return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    def __repr__(self) -> str:
        lines = self.answer()
        if self.arms:
            shown = self.table.assign(token=[repr(row.token) for row in self.arms])
            lines += ["", *shown.to_string(index=False, float_format="%.4f").split("\n")]
        return "\n".join(map(printable, [*lines, *(f"note: {note}" for note in self.notes)]))

    def _repr_html_(self) -> str:
        """For notebooks: the answer over the arms."""
        from html import escape

        shown = self.table.assign(token=[repr(row.token) for row in self.arms])
        said = "".join(f"<p>{escape(line)}</p>" for line in (*self.answer(), *self.notes))
        return f"<div>{said}{shown.to_html(index=False, float_format='{:.4f}'.format)}</div>"
