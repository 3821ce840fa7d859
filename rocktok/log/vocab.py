"""The vocabulary of a log: text and bytes of each token id, so that it can be read anywhere."""

from __future__ import annotations

import hashlib
import io
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from rocktok.errors import DamagedError, HookError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rocktok.files import Place

PATH = "vocab.parquet"


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
    mine = _decoded(data)
    for token_id, text in Vocab.load(where).texts.items():
        if mine.get(token_id, text) != text:
            raise HookError(
                f"{where.show(PATH)}: holds the vocabulary of another tokenizer (token {token_id} "
                f"is {text!r} there, {mine[token_id]!r} in this run); record into another directory"
            )


def _decoded(data: bytes) -> dict[int, str]:
    """Token id → text of the bytes of a vocab.parquet."""
    table = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True).read()
    ids, texts = table["token_id"].to_pylist(), table["token"].to_pylist()
    if "bytes" in table.schema.names:
        texts = [
            text if raw is None else raw.decode("utf-8", "backslashreplace")
            for raw, text in zip(table["bytes"].to_pylist(), map(str, texts), strict=True)
        ]
    return dict(zip(ids, texts, strict=True))


class Vocab:
    """Text of token ids; an id without text reads `<id 151700>`."""

    def __init__(self, texts: dict[int, str] | None = None) -> None:
        self._texts = texts or {}

    @property
    def identity(self) -> str | None:
        """The same for vocabularies with the same texts, and no other; None without texts."""
        if not self._texts:
            return None
        digest = hashlib.blake2b(digest_size=8)
        for token_id, text in sorted(self._texts.items()):
            digest.update(f"{token_id}\0{text}\0".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

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
    def load(cls, where: Place) -> Vocab:
        """Read vocab.parquet; an empty vocabulary if the log has none. Raises `DamagedError`."""
        if not where.exists(PATH):
            return cls()
        try:
            return cls(_decoded(where.read(PATH)))
        except (pa.ArrowException, OSError, KeyError) as error:
            raise DamagedError(
                f"{where.show(PATH)}: damaged ({str(error).splitlines()[0]}); restore it from a "
                "copy, or remove it: tokens then print as ids"
            ) from error
