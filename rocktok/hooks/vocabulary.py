"""Text and bytes of every token of a tokenizer, so that a log can be read where it is not."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@cache
def _byte_alphabet() -> dict[str, int]:
    """GPT-2's alphabet: the printable character that stands for each byte, inverted."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    return alphabet | {chr(256 + number): byte for number, byte in enumerate(others)}


def vocabulary(tokenizer: Any) -> Iterator[tuple[int, str, bytes]]:
    """(token_id, text, bytes) of each token of a Hugging Face tokenizer, by ascending id.

    Byte-level BPE is mapped back to raw bytes; SentencePiece's "▁" to a space and its `<0xNN>` to
    that byte; added and special tokens are their own text, but for runs of "▁", which are blanks.
    The text is the bytes as UTF-8 with invalid ones replaced (not `decode`, which eats the leading
    space of SentencePiece tokens). Ids that a tokenizer has no text for are left out.
    """
    added = tokenizer.added_tokens_decoder
    byte_level = _is_byte_level(tokenizer)
    # A tokenizer of one's own may have ids without a text, or texts without an id.
    known = [(i, text) for text, i in tokenizer.get_vocab().items()
             if isinstance(i, int) and (isinstance(text, str) or i in added)]  # fmt: skip
    for token_id, token in sorted(known, key=lambda item: item[0]):
        if token_id in added:
            raw = _from_added(added[token_id])
        elif byte_level:
            raw = _from_alphabet(token)
        else:
            raw = _from_sentencepiece(token)
        yield token_id, raw.decode("utf-8", "replace"), raw


def _is_byte_level(tokenizer: Any) -> bool:
    if hasattr(tokenizer, "byte_decoder"):
        return True
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return False
    parts = json.loads(backend.to_str())
    return '"ByteLevel"' in json.dumps([parts.get("decoder"), parts.get("pre_tokenizer")])


def _from_added(token: Any) -> bytes:
    text = str(token)
    if text and not text.strip("▁"):
        text = " " * len(text)
    return text.encode("utf-8", "surrogatepass")


def _from_alphabet(token: str) -> bytes:
    alphabet = _byte_alphabet()
    if any(character not in alphabet for character in token):
        return token.encode("utf-8", "surrogatepass")
    return bytes(alphabet[character] for character in token)


def _from_sentencepiece(token: str) -> bytes:
    match = _BYTE_TOKEN.fullmatch(token)
    if match:
        return bytes([int(match.group(1), 16)])
    return token.replace("▁", " ").encode("utf-8", "surrogatepass")
