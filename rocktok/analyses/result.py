"""What the result of every analysis can do: become JSON, and show itself."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, get_type_hints

from rocktok.analyses.plain_json import as_plain, indented
from rocktok.errors import printable

if TYPE_CHECKING:
    import pandas as pd


#: What JSON may hold raw, but a terminal or an encoding must not get: DEL and C1, marks of
#: direction and of lines, halves of surrogate pairs.
_STEERING = re.compile(
    "[\x7f-\x9f\xad\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)

#: Types in a result, where no number was asked for.
MOST_TYPES = 100


@dataclass(frozen=True)
class Result:
    """Base of the results: frozen dataclasses that name their `SCHEMA` and hold `notes`.

    Shown in Python, a result is the table that its command prints; in a notebook, a card.
    """

    #: Name and version of the JSON output, "rocktok.<command>/<n>".
    SCHEMA: ClassVar[str]
    #: Columns that a card in a notebook shows, of a table with too many; (): all.
    CARD: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        # `dataclass` would write one with every number in it, unless the class has its own.
        cls.__repr__ = Result.__repr__  # type: ignore[method-assign]

    def __repr__(self) -> str:
        module = table_module(self)
        if module is not None:
            lines = str(module.render(self)).rstrip("\n").split("\n")
            return "\n".join(map(printable, lines))
        sizes = (
            f"{field.name}: {len(value)}"
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Sequence | dict)
            and not isinstance(value, str)
        )
        return f"{type(self).__name__} ({', '.join(sizes)})"

    def to_dict(self) -> dict[str, object]:
        """The schema and every field, as `to_json` writes them."""
        return {"schema": self.SCHEMA, **as_plain(self)}

    def limits(self) -> Mapping[str, object]:
        """What `--fail-if` may name: what `to_dict` holds."""
        return self.to_dict()

    @classmethod
    def limit_types(cls) -> dict[str, Any]:
        """Key of `limits` → type of its value; of all keys that a result may have."""
        hints = get_type_hints(cls)
        return {"schema": str, **{field.name: hints[field.name] for field in fields(cls)}}

    def to_json(self) -> str:
        """JSON of `to_dict`; never NaN or an infinity, nor what would steer a terminal."""
        text = indented(self.to_dict()) + "\n"
        return _STEERING.sub(lambda match: json.dumps(match[0])[1:-1], text)

    def about(self, rows: str) -> dict[str, object]:
        """`to_dict` without its rows: what goes into a file that has these as its table."""
        return {name: value for name, value in self.to_dict().items() if name != rows}

    @cached_property
    def table(self) -> pd.DataFrame:
        """The rows that `shown` gives as a pandas DataFrame."""
        return frame_of(self.shown()[1])

    def shown(self) -> tuple[str, Iterable[object] | pd.DataFrame]:
        """For a page: heading ("": none), and a pandas DataFrame or mappings, one per row."""
        raise NotImplementedError

    def answer(self) -> list[str]:
        """The answer, and how sure it is; without a terminal table, the heading."""
        module = table_module(self)
        if module is None:
            return [heading] if (heading := self.shown()[0]) else []
        return list(module.opening(self))

    def _repr_html_(self) -> str:
        """For notebooks: a card of the answer, the first rows, and what a reader must know."""
        from rocktok.analyses.card import card

        frame = frame_of(self.shown()[1])
        columns = [name for name in self.CARD if name in frame.columns]
        notes: Iterable[str] = getattr(self, "notes", ())
        return card(self.answer(), frame[columns] if columns else frame, notes)


def frame_of(rows: Iterable[object] | pd.DataFrame) -> pd.DataFrame:
    """Rows as a DataFrame, which they may be already."""
    import pandas as pd

    return rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows))


def table_module(result: object) -> ModuleType | None:
    """The module `table` beside the one of a result's class, which renders and encodes it.

    It is found by its name: a result is pure, and imports nothing that writes it out.
    """
    package = type(result).__module__.rpartition(".")[0]
    name = f"{package}.table"
    return import_module(name) if package and find_spec(name) is not None else None
