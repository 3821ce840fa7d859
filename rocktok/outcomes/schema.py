"""Columns and metadata of a file of outcomes, and what it holds as arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from rocktok._types import Array

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA = "rocktok.outcomes/1"

#: Key of the Parquet metadata that holds `About`.
KEY = b"rocktok"

#: Name of the baseline that arms are paired with; others are "baseline-2", "baseline-3", …
BASELINE = "baseline"

MODES = ("baseline", "ban", "ban-in-context", "replace")
GROUPS = ("baseline", "rock", "control", "placebo", "frequency")

#: (name, Arrow type, whether a row may lack it), in the order of the file.
COLUMNS = (
    ("arm", "string", False),
    ("token_id", "int32", False),
    ("mode", "string", False),
    ("group", "string", False),
    ("control_of", "int32", True),
    ("problem_id", "string", False),
    ("seed", "int64", False),
    ("rollout", "int32", False),
    ("correct", "bool", False),
    ("num_tokens", "int32", False),
    ("first_position", "int32", True),
    ("fired", "bool", False),
    ("loss_after", "float32", True),
    ("baseline_loss_after", "float32", True),
    ("edit_after", "float32", True),
    ("truncated", "bool", False),
)

#: Columns that files of earlier versions lack as a whole.
LATER = ("truncated",)

REMEDY = "give what `rocktok intervene -o FILE.parquet` writes"

#: Columns that say the same in all rows of an arm.
OF_AN_ARM = ("token_id", "mode", "group", "control_of")


class NeverFired(TypedDict):
    """An arm whose token never occurs in the baseline, so that it has no rows."""

    arm: str
    token_id: int
    mode: str
    group: str
    control_of: NotRequired[int | None]


class About(TypedDict, total=False):
    """Metadata of a file. `schema` and `benchmark` must be there.

    Attributes:
        schema: `SCHEMA`.
        benchmark: name of the set of problems.
        models: paths or names, by role.
        tokenizer: identity of the vocabulary, as in run.json; None: unknown.
        decoding: how text was generated: greedy or temperature, max_new_tokens.
        candidates: where the tokens came from.
        never_fired: arms without rows, as their token never occurs in the baseline.
        token_texts: token id, as text → its text.
        rocktok: version that wrote the file.
    """

    schema: str
    benchmark: str
    models: dict[str, Any]
    tokenizer: str | None
    decoding: dict[str, Any]
    candidates: Any
    never_fired: list[NeverFired]
    token_texts: dict[str, str]
    rocktok: str


@dataclass(frozen=True)
class Arm:
    """One way to generate. `control_of`: the rock that a control is matched with."""

    name: str
    token_id: int
    mode: str
    group: str
    control_of: int | None = None


@dataclass(frozen=True)
class Outcomes:
    """What a file holds, as dense arrays.

    Attributes:
        name: where it came from.
        about: its metadata.
        arms: in the order of the file, baselines first, `BASELINE` the first of them.
        problems: ids, in the order of the file.
        draws: of a problem, the same for all.
        columns: column → (A, P, D); absent whole numbers are −1, absent floats NaN. Those of
            `LATER` are there if the file has them.
    """

    name: str
    about: About
    arms: tuple[Arm, ...]
    problems: tuple[str, ...]
    draws: int
    columns: Mapping[str, Array]

    @property
    def baselines(self) -> int:
        """Number of baselines: they are the first arms."""
        return sum(arm.group == "baseline" for arm in self.arms)

    @property
    def never_fired(self) -> tuple[NeverFired, ...]:
        """Arms without rows."""
        return tuple(self.about.get("never_fired") or ())


def outcomes_schema() -> pa.Schema:
    """The Arrow schema of the rows."""
    import pyarrow as pa

    types = {
        "string": pa.string(),
        "int32": pa.int32(),
        "int64": pa.int64(),
        "bool": pa.bool_(),
        "float32": pa.float32(),
    }
    return pa.schema([pa.field(name, types[kind], absent) for name, kind, absent in COLUMNS])
