"""Results as cards of a notebook: few rows, notes folded, nothing of a log that is not text."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import numpy as np
import pandas as pd
import pytest

import rocktok
from rocktok.analyses.card import ROWS, card
from tests.page_data import HARMFUL
from tests.paths import SAMPLE


class Read(HTMLParser):
    """Elements that a card opens, with their attributes, and texts by the element they are in."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.opened: list[tuple[str, dict[str, Any]]] = []
        self.inside: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.opened.append((tag, dict(attrs)))
        if tag != "br":
            self.inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.inside.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.inside[-1], data))

    def of(self, tag: str) -> list[str]:
        return [text for inside, text in self.texts if inside == tag]


@pytest.mark.parametrize("count", [0, 1, ROWS, ROWS + 1, 1234])
def test_a_card_shows_the_first_rows(count: int) -> None:
    read = Read(card(["a"], pd.DataFrame({"row": range(count), "half": 0.5}), ["one", "two"]))
    assert read.inside == []
    assert read.of("td")[::2] == [str(row) for row in range(min(count, ROWS))]
    more = {ROWS + 1: ["… 1 more row in "], 1234: ["… 1,214 more rows in "]}
    assert [text for text in read.of("p") if "more" in text] == more.get(count, [])
    assert read.of("summary") == ["Notes (2)"] and read.of("li") == ["one", "two"]
    assert all("open" not in attributes for tag, attributes in read.opened if tag == "details")


def test_cells_are_short_and_absent_columns_left_out() -> None:
    frame = pd.DataFrame(
        {
            "id": np.array([7, 1 << 40]),
            "share": [0.123456, None],
            "none": [None, None],
            "nan": [np.nan, np.nan],
            "empty": ["", ""],
            "flag": [True, False],
            "list": [["a", "b"], []],
        }
    )
    read = Read(card([], frame, []))
    assert read.of("th") == ["id", "share", "flag", "list"]
    assert read.of("td") == ["7", "0.1235", "yes", "a, b", "1099511627776", "–", "no"]
    assert read.of("p") == read.of("summary") == []


def test_text_that_means_harm_is_text() -> None:
    plain = Read(card(["x"], pd.DataFrame({"x": ["x"] * len(HARMFUL)}), ["x"] * len(HARMFUL)))
    frame = pd.DataFrame({"x": list(HARMFUL)}, dtype=object)
    html = card([" ".join(HARMFUL)], frame, HARMFUL)
    read = Read(html)
    assert [tag for tag, _ in read.opened] == [tag for tag, _ in plain.opened]
    assert {name for _, attributes in read.opened for name in attributes} <= {"class"}
    assert not {"\x1b", "\u202e", "\ud800"} & set(html)
    assert html.encode()


def test_the_sample() -> None:
    found = rocktok.detect(SAMPLE, context="off", top_k=30, rule="top-k")
    read = Read(found._repr_html_())
    assert read.of("strong")[0] == found.answer()[0]
    heads = read.of("th")
    assert heads[:3] == ["rank", "token", "token_id"] and len(heads) < 16
    assert [tag for tag, _ in read.opened].count("td") == ROWS * len(heads)
    assert read.of("td")[1] == repr(found.table["token"][0])
