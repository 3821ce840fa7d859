"""What the result of every analysis can do: become JSON, and show itself in a notebook."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from html import escape
from typing import Any, ClassVar

Row = dict[str, Any]


@dataclass(frozen=True)
class Result:
    """Base of the results: frozen dataclasses that name their `SCHEMA` and hold `notes`."""

    #: Name and version of the JSON output, "rocktok.<command>/<n>".
    SCHEMA: ClassVar[str]

    def to_dict(self) -> Row:
        """The schema and every field, as `to_json` writes them."""
        return {"schema": self.SCHEMA, **asdict(self)}

    def to_json(self) -> str:
        """JSON of `to_dict`; never NaN or an infinity."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    def about(self, rows: str) -> Row:
        """`to_dict` without its rows: what goes into a file that has these as its table."""
        return {name: value for name, value in self.to_dict().items() if name != rows}

    def shown(self) -> tuple[str, Any]:
        """For a notebook: heading ("": none), and a pandas DataFrame or mappings, one per row."""
        raise NotImplementedError

    def _repr_html_(self) -> str:
        """For notebooks: heading, table, and what a reader of it must know."""
        import pandas as pd

        heading, rows = self.shown()
        frame = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows))
        notes = "".join(f"<li>{escape(note)}</li>" for note in getattr(self, "notes", ()))
        return (
            (f"<p>{escape(heading)}</p>" if heading else "")
            + str(frame.to_html(index=False))
            + (f"<ul>{notes}</ul>" if notes else "")
        )
