"""`compare` as tables for people, CSV or Parquet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations, permutations
from typing import Any

from rocktok.analyses.compare.result import Agreement, AgreementAt, CompareResult
from rocktok.tables.encode import Form, encode_table, kinds_of
from rocktok.tables.names import labels
from rocktok.tables.terminal import View
from rocktok.tables.text import Field, count, counted, number, percent, render_table, token

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
_REPLICATION = (
    Field("rocks of", text=True), Field("in", text=True), Field("rocks"), Field("seen there"),
    Field("there they are", text=True), Field("of these"), Field("share"),
)  # fmt: skip
_HOW = {"hardness": "hard", "listed": "in the list"}
_AT = {"jaccard": "J", "jaccard_chance": "chance", "jaccard_controls": "controls"}
_AT_WORDS = "chance: expected of as many types, drawn at random; controls: of the rocks' controls"
_NO_CHANCE = "not known from how many types the lists are drawn (--types): no agreement by chance"
_RANKED_BY = {
    "score": "score", "context_rock_score": "R_ctx", "rock_score": "R", "listed": "rows",
}  # fmt: skip

#: Width of the other columns beside a list's name.
_REST = 40


def opening(result: CompareResult) -> list[str]:
    """How far the lists agree, and how sure that is."""
    return [_answer(result, _letters(result)), _how_sure(result)]


def render(result: CompareResult, view: View | None = None) -> str:
    """Answer, pairs, the union of the tokens with their ranks, and what the lists are."""
    view = view or View.plain()
    letters, shown = _letters(result), view.first(result.tokens)
    pairs = view.first(list(zip(combinations(letters, 2), result.pairs, strict=True)))
    fields = (Field("token", text=True), *(Field(letter) for letter in letters))
    cells = (
        (token(row["token"]), *("–" if rank is None else str(rank) for rank in row["ranks"]))
        for row in shown
    )
    parts = [
        *view.answer(opening(result)),
        "",
        render_table(_PAIRS, (_pair(*pair) for pair in pairs), view).rstrip("\n"),
        *view.more(len(result.pairs) - len(pairs), "--all"),
        *_more_tables(result, letters, view),
        "",
        view.heading("Ranks of the tokens, sorted by number of lists"),
        render_table(fields, cells, view).rstrip("\n"),
        *view.more(len(result.tokens) - len(shown), "--all"),
        "",
        render_table(_LISTS, _lists(result, letters, view), view).rstrip("\n"),
    ]
    return "\n".join(parts) + "\n"


def _more_tables(result: CompareResult, letters: Sequence[str], view: View) -> list[str]:
    """Agreement of the first K, and replication, where there are any."""
    parts: list[str] = []
    if any(row["jaccard"] is not None for row in result.at_k):
        ks = list(dict.fromkeys(row["k"] for row in result.at_k))
        pairs = view.first(
            list(zip(combinations(letters, 2), _by_pair(result, len(ks)), strict=True))
        )
        shown = [name for name in _AT if any(row[name] is not None for row in result.at_k)]  # type: ignore[literal-required]
        fields = [*_PAIRS[:2], *(Field(f"{_AT[name]}@{k}") for name in shown for k in ks)]
        cells = [
            (*two, *(number(row[name]) for name in shown for row in rows))  # type: ignore[literal-required]
            for two, rows in pairs
        ]
        parts += ["", view.heading("Jaccard index of the first K of each list"),
                  render_table(fields, cells, view).rstrip("\n")]  # fmt: skip
        parts.append(view.aside(_AT_WORDS if "jaccard_chance" in shown else _NO_CHANCE))
    seen = [row for row in result.replication if row["seen"]]
    if seen:
        own = zip(permutations(letters, 2), result.replication, strict=True)
        rows = [
            (*two, count(row["rocks"]), count(row["seen"]), _HOW[row["by"]],
             count(row["replicated"]), percent(row["share"], 0))
            for two, row in own if row["seen"]
        ]  # fmt: skip
        some = view.first(rows)
        parts += ["", view.heading("Replication: rocks of one list in the other log"),
                  render_table(_REPLICATION, some, view).rstrip("\n"),
                  *view.more(len(rows) - len(some), "--all")]  # fmt: skip
    return parts


def _by_pair(result: CompareResult, ks: int) -> list[Sequence[AgreementAt]]:
    return [result.at_k[start : start + ks] for start in range(0, len(result.at_k), ks)]


def _letters(result: CompareResult) -> list[str]:
    return [_letter(number) for number in range(len(result.log))]


def _answer(result: CompareResult, letters: Sequence[str]) -> str:
    if not result.tokens:
        return f"None of the {len(letters)} lists has a rock, so there is no agreement to measure."
    if len(letters) == 2:
        (pair,) = result.pairs
        first, second = pair["rocks_first"], pair["rocks_second"]
        both = pair["shared_count"]
        of = (
            f"{both:,} of {counted(first, 'rock')}"
            if first == second
            else f"{counted(both, 'rock')}, of {first:,} and {second:,}"
        )
        return f"A and B share {of} (Jaccard {pair['jaccard']:.2f})."
    shared = [row["jaccard"] for row in result.pairs if row["jaccard"] is not None]
    in_all = sum(row["lists"] == len(letters) for row in result.tokens)
    return (
        f"{in_all:,} of {len(result.tokens):,} rocks are in all {len(letters)} lists; Jaccard of "
        f"pairs {min(shared):.2f} to {max(shared):.2f}."
    )


def _how_sure(result: CompareResult) -> str:
    by = "id" if result.matched_by == "token_id" else "text"
    ranks = [row["spearman"] for row in result.pairs if row["spearman"] is not None]
    related = ""
    if ranks:
        least, most = f"{min(ranks):.2f}", f"{max(ranks):.2f}"
        related = f"; Spearman of their ranks {least if least == most else f'{least} to {most}'}"
    return f"Tokens matched by {by}{related}; one log is one training run, no interval."


def _letter(number: int) -> str:
    """A, B, … Z, AA, AB: a list's name where there is little room."""
    before, last = divmod(number, 26)
    return (_letter(before - 1) if before else "") + chr(ord("A") + last)


def _lists(result: CompareResult, letters: Sequence[str], view: View) -> list[tuple[str, ...]]:
    names = labels([row["name"] for row in result.log])
    return [
        (
            letter,
            _fitted(name, view.width - _REST),
            f"{row['table']}/" if row.get("table") else "–",
            _steps(row),
            _RANKED_BY[row["ranked_by"]],
        )
        for letter, name, row in zip(letters, names, result.log, strict=True)
    ]


def _fitted(name: str, width: int) -> str:
    """The end of a long name: what tells paths apart stands there more often than before."""
    most = max(width, 8)
    return name if len(name) <= most else "…" + name[1 - most :]


def _steps(row: Row) -> str:
    if row.get("post") is None:
        return "–"
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
