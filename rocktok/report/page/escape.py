"""Token text made visible: blanks, line breaks and control characters as marks, not as effects."""

from __future__ import annotations

import unicodedata

#: A mark's kind ("" for plain text) and what is shown for it.
Piece = tuple[str, str]

#: Characters of one token that are shown; the vocabularies in use stay below it.
LIMIT = 200

#: Categories that show nothing, or move what is beside them: controls, formats (the direction
#: overrides are among them), lone surrogates, private use, unassigned, separators but the space.
_UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def pieces(text: str, limit: int | None = LIMIT, *, prose: bool = False) -> list[Piece]:
    r"""What to show for a token, in order.

    Kinds: "ws" a blank at an end of the token; "nl" a line break (↵); "tab" (→); "esc" an escape
    like \x1b, \u202e or \ud800; "mk" the sign for no text, ∅. A mark that would sit on what comes
    before has a carrier, ◌. In `prose`, blanks are plain.

    >>> pieces(" So\n")
    [('ws', ' '), ('', 'So'), ('nl', '↵')]
    """
    if not text and not prose:
        return [("mk", "∅")]
    cut = text if limit is None else text[:limit]
    first, last = len(cut) - len(cut.lstrip(" ")), len(cut.rstrip(" "))
    marked: list[Piece] = []
    for index, char in enumerate(cut):
        kind, shown = _piece(char)
        if char == " " and not prose and not first <= index < last:
            kind = "ws"
        elif index == 0 and unicodedata.combining(char):
            shown = f"◌{shown}"
        if marked and kind in ("", "ws") and marked[-1][0] == kind:
            marked[-1] = (kind, marked[-1][1] + shown)
        else:
            marked.append((kind, shown))
    if len(cut) < len(text):
        marked.append(("esc", f"… {len(text) - len(cut):,} more"))
    return marked


def signs(marked: list[Piece]) -> str:
    """Pieces as one text in which blanks can be seen: what names a token to a screen reader.

    >>> signs(pieces(" So\\n"))
    '␣So↵'
    """
    return "".join(shown.replace(" ", "␣") if kind == "ws" else shown for kind, shown in marked)


def printable(text: str) -> str:
    r"""Text in which nothing is unseen but blanks, line breaks and tabs.

    >>> printable("a\x1b[0m\u202eb")
    'a\\x1b[0m\\u202eb'
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(char if char in "\n\t" else _piece(char)[1] for char in text)


def _piece(char: str) -> Piece:
    if char == "\n":
        return "nl", "↵"
    if char == "\t":
        return "tab", "→"
    category = unicodedata.category(char)
    if category in _UNSEEN or (category == "Zs" and char != " "):
        return "esc", char.encode("unicode_escape").decode()
    return "", char
