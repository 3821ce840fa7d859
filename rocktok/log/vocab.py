"""The vocabulary of a log: text and bytes of each token id, so that it can be read anywhere."""

from __future__ import annotations

import hashlib
import io
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import rocktok.schema as schema
from rocktok.errors import DamagedError, DataError, HookError
from rocktok.files import SMALL_FILE_BYTES
from rocktok.log.checks import Rules, Where, check_values, to_numpy
from rocktok.log.manifest import FileSeal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rocktok.files import Place

PATH = "vocab.parquet"

_TEXTS = ("token", "bytes")
_REMEDY = "restore it from a copy, or go on without text with --allow-missing"
_UNSEALED_REMEDY = "restore it from a copy, or remove it: tokens then print as ids"


def encode_vocab(rows: Iterable[tuple[int, str, bytes]]) -> bytes:
    """Bytes of vocab.parquet from (token_id, text, bytes) rows."""
    ids, texts, raw = [], [], []
    for token_id, text, data in rows:
        ids.append(token_id)
        # Lone surrogates cannot be stored as UTF-8; the bytes column keeps the truth.
        texts.append(text.encode("utf-8", "replace").decode())
        raw.append(data)
    table = pa.table(
        {
            "token_id": pa.array(ids, pa.int32()),
            "token": pa.array(texts, pa.string()),
            "bytes": pa.array(raw, pa.binary()),
        }
    )
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()


def refuse_others(where: Place, data: bytes) -> None:
    """Raise `HookError` where the log has another text for a token than `data`, a vocab.parquet."""
    mine = _texts(_table(data, PATH), PATH)
    for token_id, text in Vocab.load(where).texts.items():
        if mine.get(token_id, text) != text:
            raise HookError(
                f"{where.show(PATH)}: holds the vocabulary of another tokenizer (token {token_id} "
                f"is {text!r} there, {mine[token_id]!r} in this run); record into another directory"
            )


class Vocab:
    """Text of token ids; an id without text reads `<id 151700>`."""

    def __init__(self, texts: dict[int, str] | None = None) -> None:
        self._texts = texts or {}

    @cached_property
    def identity(self) -> str | None:
        """The same for vocabularies with the same texts, and no other; None without texts."""
        if not self._texts:
            return None
        texts = "".join(f"{token_id}\0{text}\0" for token_id, text in sorted(self._texts.items()))
        return hashlib.blake2b(texts.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()

    @property
    def texts(self) -> dict[int, str]:
        """Token id → text, of those that have one."""
        return dict(self._texts)

    def __len__(self) -> int:
        return len(self._texts)

    def text(self, token_id: int) -> str:
        """The token's text, invalid UTF-8 escaped as `\\xNN`."""
        return self._texts.get(token_id, f"<id {token_id}>")

    @classmethod
    def load(cls, where: Place, seal: FileSeal | None = None) -> Vocab:
        """Read vocab.parquet; an empty vocabulary if the log has none.

        `seal`: what a manifest says of the file, which then must be there.

        Raises `DamagedError`, and `DataError` for a file that is no vocabulary.
        """
        name = where.show(PATH)
        if not where.exists(PATH):
            if seal is not None:
                raise DamagedError(f"{name}: is listed in a manifest but missing; {_REMEDY}")
            return cls()
        try:
            data = where.read(PATH, largest=SMALL_FILE_BYTES)
            if seal is not None and FileSeal.of(data) != seal:
                raise DamagedError(
                    f"{name}: altered or damaged (its CRC32 is not the manifest's); {_REMEDY}"
                )
            return cls(_texts(_table(data, name), name))
        except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
            line = str(error).splitlines()[0] if str(error) else type(error).__name__
            remedy = _REMEDY if seal is not None else _UNSEALED_REMEDY
            raise DamagedError(f"{name}: damaged ({line}); {remedy}") from error


def _table(data: bytes, name: str) -> pa.Table:
    """The columns of a vocabulary, not larger than one can be, whatever the file claims."""
    # As dictionaries, repeated values take memory once.
    parquet = pq.read_metadata(pa.BufferReader(data)).schema
    columns = [parquet.column(i) for i in range(len(parquet.names))]
    repeated = [c.path for c in columns if c.path in _TEXTS and c.physical_type == "BYTE_ARRAY"]
    with pq.ParquetFile(
        pa.BufferReader(data), page_checksum_verification=True, read_dictionary=repeated
    ) as file:
        metadata = file.metadata
        names = file.schema_arrow.names
        missing = [column for column in ("token_id", "token") if column not in names]
        if missing or len(set(names)) < len(names):
            what = f"no column {', '.join(missing)}" if missing else "two columns of one name"
            raise DataError(f"{name}: has {what}; it must have token_id and token")
        groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
        unpacked = sum(group.total_byte_size for group in groups)
        if metadata.num_rows > schema.MAX_VOCABULARY or unpacked > SMALL_FILE_BYTES:
            raise DataError(
                f"{name}: claims {metadata.num_rows:,} rows and {unpacked:,} bytes; a vocabulary "
                f"has no more than {schema.MAX_VOCABULARY:,} and {SMALL_FILE_BYTES:,}"
            )
        table = file.read([name for name in ("token_id", *_TEXTS) if name in names])
        if any(len(column) != metadata.num_rows for column in table.columns):
            raise ValueError("columns of unequal lengths")
        return table


def _texts(table: pa.Table, name: str) -> dict[int, str]:
    """Token id → text. Raises `DataError` for columns that are not of their kind."""
    where = Where(name, 0)
    id_V = to_numpy(table["token_id"], "token_id", where)
    check_values({"token_id": id_V}, Rules("exact", None), where)
    if len(np.unique(id_V)) < len(id_V):
        raise DataError(f"{name}: a token_id is listed twice; keep one row for each")
    token_V = _values(table["token"], "token", "text", where)
    if "bytes" not in table.schema.names:
        pairs = zip(id_V.tolist(), token_V, strict=True)
        return {token: text for token, text in pairs if text is not None}
    texts = {}
    bytes_V = _values(table["bytes"], "bytes", "binary", where)
    for token, text, raw in zip(id_V.tolist(), token_V, bytes_V, strict=True):
        shown = text if raw is None else raw.decode("utf-8", "backslashreplace")
        if shown is not None:
            texts[token] = shown
    return texts


def _values(column: Any, name: str, wanted: str, where: Where) -> list[Any]:
    """A column's values, which share memory where they are the same."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    fits = {
        "text": (pa.types.is_string, pa.types.is_large_string, pa.types.is_null),
        "binary": (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_null),
    }
    if not any(is_one(kind) for is_one in fits[wanted]):
        raise DataError(f"{where.name}: column {name}: type {kind}; it must be {wanted}")
    values: list[Any] = []
    for chunk in column.chunks:
        if not pa.types.is_dictionary(chunk.type):
            values += chunk.to_pylist()
            continue
        distinct = chunk.dictionary.to_pylist()
        values += [None if i is None else distinct[i] for i in chunk.indices.to_pylist()]
    if sum(len(value) for value in values if value is not None) > SMALL_FILE_BYTES:
        raise DataError(f"{where.name}: column {name}: more than {SMALL_FILE_BYTES:,} bytes")
    return values
