"""Files of outcomes: written whole, read and checked."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rocktok._types import Array
from rocktok.errors import LogError
from rocktok.files import local_path
from rocktok.outcomes.checks import checked_outcomes
from rocktok.outcomes.schema import KEY, LATER, REMEDY, SCHEMA, About, Outcomes, outcomes_schema

if TYPE_CHECKING:
    import pyarrow as pa


def encode_outcomes(columns: Mapping[str, Sequence[Any] | Array], about: About) -> bytes:
    """The bytes of a file.

    Args:
        columns: column → values, one per row; all of `COLUMNS`, maybe but for `LATER`.
        about: the metadata; `schema` is added.

    Raises `LogError` for rows that break a rule of the format.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = outcomes_schema()
    lacks = [name for name in LATER if name not in columns]
    schema = pa.schema([field for field in schema if field.name not in lacks])
    table = pa.table({name: columns[name] for name in schema.names}, schema=schema)
    whole: About = {**about, "schema": SCHEMA}
    checked_outcomes(table, whole, "outcomes")
    text = json.dumps(whole, ensure_ascii=False, allow_nan=False)
    sink = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({KEY: text.encode()}), sink)
    return sink.getvalue()


def load_outcomes(path: str | os.PathLike[str]) -> Outcomes:
    """Read and check a file.

    Raises `LogError` for one that cannot be read, is none, or breaks a rule of the format.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    name = os.fspath(path)
    try:
        table = pq.read_table(local_path(path), partitioning=None, memory_map=False)
    except FileNotFoundError as error:
        raise LogError(f"{name}: is not there; {REMEDY}") from error
    except (OSError, pa.ArrowException) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise LogError(f"{name}: cannot be read as Parquet ({why}); {REMEDY}") from error
    return checked_outcomes(table, _about(table, name), name)


def _about(table: pa.Table, name: str) -> About:
    """The metadata of a table. Raises `LogError` where it is not that of outcomes."""
    try:
        about = json.loads((table.schema.metadata or {})[KEY])
        schema = about["schema"]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise LogError(f"{name}: is not a table of outcomes; {REMEDY}") from error
    if schema != SCHEMA:
        raise LogError(f"{name}: its schema is {schema}, this version reads {SCHEMA}; {REMEDY}")
    if not isinstance(about.get("benchmark"), str):
        raise LogError(f"{name}: its metadata does not name the benchmark; {REMEDY}")
    for key in ("models", "decoding", "token_texts"):
        if not isinstance(about.get(key) or {}, dict):
            raise LogError(f"{name}: {key} in its metadata is no object; {REMEDY}")
    if not isinstance(about.get("tokenizer") or "", str):
        raise LogError(f"{name}: tokenizer in its metadata is no text; {REMEDY}")
    fired = about.get("never_fired") or []
    try:
        good = all({"arm", "token_id", "mode", "group"} <= row.keys() for row in fired)
    except (AttributeError, TypeError):
        good = False
    if not good:
        raise LogError(f"{name}: never_fired in its metadata is no list of arms; {REMEDY}")
    return about  # type: ignore[no-any-return]
