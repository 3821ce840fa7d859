"""`compare` as tables for people, CSV or Parquet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from rocktok.analyses.compare.result import Agreement, CompareResult
from rocktok.tables.encode import Form, encode_table, kinds_of
from rocktok.tables.names import labels
from rocktok.tables.text import Field, number, render_table, token

Row = Mapping[str, Any]

_PAIRS = (
    Field("first", text=True),
    Field("second", text=True),
    Field("rocks"),
    Field("shared"),
    Field("Jaccard"),
    Field("Spearman"),
)
_LISTS = (
    Field("", text=True),
    Field("list", text=True),
    Field("table", text=True),
    Field("steps"),
    Field("ranked by"),
)
_RANKED_BY = {"score": "score", "context_rock_score": "R_ctx", "rock_score": "R"}

#: Characters of a list's name that fit beside the rest.
_NAME = 36

#: Tokens of the union that the table shows; the other formats have all.
_SHOWN = 40


def render(result: CompareResult) -> str:
    """What the lists are, pairs, then the union of the tokens with their ranks."""
    letters = [_letter(number) for number in range(len(result.log))]
    fields = (Field("token", text=True), *(Field(letter) for letter in letters))
    cells = (
        (token(row["token"]), *("–" if rank is None else str(rank) for rank in row["ranks"]))
        for row in result.tokens[:_SHOWN]
    )
    parts = [
        f"{len(letters)} lists of rocks, tokens matched by "
        + ("id" if result.matched_by == "token_id" else "text"),
        "",
        render_table(_LISTS, _lists(result, letters)),
        render_table(_PAIRS, map(_pair, combinations(letters, 2), result.pairs)),
        "Ranks of the tokens, those in most lists first",
        render_table(fields, cells).rstrip("\n"),
    ]
    left = len(result.tokens) - _SHOWN
    if left > 0:
        parts.append(f"and {left} more; --format json has all")
    return "\n".join(parts) + "\n"


def _letter(number: int) -> str:
    """A, B, … Z, AA, AB: a list's name where there is little room."""
    before, last = divmod(number, 26)
    return (_letter(before - 1) if before else "") + chr(ord("A") + last)


def _lists(result: CompareResult, letters: Sequence[str]) -> list[tuple[str, ...]]:
    names = labels([row["name"] for row in result.log])
    return [
        (letter, _fitted(name), f"{row['table']}/", _steps(row), _RANKED_BY[row["ranked_by"]])
        for letter, name, row in zip(letters, names, result.log, strict=True)
    ]


def _fitted(name: str) -> str:
    """The end of a long name: what tells paths apart stands there more often than before."""
    return name if len(name) <= _NAME else "…" + name[1 - _NAME :]


def _steps(row: Row) -> str:
    return str(row["post"]) if row["pre"] is None else f"{row['pre']}, {row['post']}"


def _pair(letters: tuple[str, str], row: Row) -> tuple[str, ...]:
    return (
        *letters,
        f"{row['rocks_first']}, {row['rocks_second']}",
        str(row["shared_count"]),
        number(row["jaccard"]),
        "–" if row["spearman"] is None else f"{row['spearman']:.2f}",
    )


def encode(result: CompareResult, form: Form) -> bytes:
    """The pairs; lists of tokens are in JSON alone."""
    kinds = {name: kind for name, kind in kinds_of(Agreement).items() if kind != "list"}
    return encode_table(result.pairs, kinds, form, result.about("pairs"))
