"""The page as bytes: what is on it, what is not, and that it can hold any text."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from rocktok.report.page.escape import pieces, printable
from rocktok.report.page.render import render_page
from tests.page_data import HARMFUL, harmful, sample, small

VOID = {"meta", "link", "img", "input", "br"}


class Reader(HTMLParser):
    """Elements with their attributes, and that every one is closed."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def ids(self) -> set[str]:
        return {a["id"] for _, a in self.elements if a.get("id")}  # type: ignore[misc]


def test_all_parts_are_there() -> None:
    page = Reader(render_page(small()))
    assert {"summary", "tokens", "rock=0", "rock=1", "text", "about", "data"} <= page.ids()
    assert "figures" not in page.ids()
    tags = [tag for tag, _ in page.elements]
    assert tags.count("script") == 2
    assert [a.get("type") for t, a in page.elements if t == "script"] == [
        "application/json", "module"]  # fmt: skip


@pytest.mark.parametrize("part", ["summary", "table", "rocks", "text", "log", "figures", "notes",
                                  "missing", "created", "version"])  # fmt: skip
@pytest.mark.parametrize("empty", [None, "absent"])
def test_any_part_may_be_missing(part: str, empty: Any) -> None:
    data = {**small(), part: None}
    if empty == "absent":
        del data[part]
    page = Reader(render_page(data))
    gone = {"table": "tokens", "rocks": "rock=0", "text": "text"}
    if part in gone:
        assert gone[part] not in page.ids()


def test_nothing_at_all() -> None:
    page = Reader(render_page({}))
    assert "There is no summary" in "".join(page.texts)


def test_harmful_text_stays_text() -> None:
    whole = render_page(harmful())
    page = Reader(whole)
    calm = Reader(render_page(small(dict.fromkeys(range(len(HARMFUL)), "x"))))
    # The same elements as with harmless text, but for the marks of blanks and escapes.
    marks = {"ws", "nl", "tab", "esc", "mk"}

    def plain(read: Reader) -> list[str]:
        return [t for t, a in read.elements if a.get("class") not in {*marks, "flag"}
                and t not in ("figure", "figcaption", "svg", "strong", "li", "span")]  # fmt: skip

    # What the first screen and the rows of `harmful` have beyond `small`.
    more = {"section", "div", "h2", "ul", "a", "caption", "polyline", "line"}
    assert set(plain(page)) <= {*plain(calm), *more}
    assert [t for t, _ in page.elements].count("script") == 2
    assert not any(name.startswith("on") for _, a in page.elements for name in a)
    whole.encode("utf-8")  # no lone surrogate is left
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00-\x08\x0b\x0c\x0e-\x1f]", whole)


def test_the_data_is_json_that_cannot_end_its_element() -> None:
    whole = render_page(harmful())
    start = whole.index('id="data">') + len('id="data">')
    payload = whole[start : whole.index("</script>", start)]
    assert not set("<>&") & set(payload)
    content = json.loads(payload)
    assert len(content["text"]["sequences"]) == 2
    assert payload.isascii()


def test_the_policy_lets_nothing_run_but_what_is_ours() -> None:
    page = Reader(render_page(small()))
    policy = next(a["content"] for _, a in page.elements
                  if a.get("http-equiv") == "Content-Security-Policy")  # fmt: skip
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy and "http" not in policy
    for _, attributes in page.elements:
        for name in ("src", "href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:")), value
        assert "style" not in attributes


def test_the_same_bytes() -> None:
    assert render_page(small()) == render_page(small())


@pytest.mark.long
def test_its_size_goes_with_what_is_shown() -> None:
    few, many = (len(render_page(sample(n))) for n in (2, 20))
    assert few < many < 5_000_000


def test_numbers_that_are_none_or_not_finite() -> None:
    data = small()
    data["table"]["rows"][0]["mean_loss"] = float("nan")
    data["text"]["sequences"][0]["values"]["loss"][0][0] = float("inf")
    data["rocks"][0]["ccr"] = None
    data["rocks"][0]["contexts"][0]["loss_pre"] = None
    whole = render_page(data)
    assert "NaN" not in whole.replace("isNaN", "")
    assert "Infinity" not in whole


@pytest.mark.parametrize(
    "text, shown",
    [(" a b ", [("ws", " "), ("", "a b"), ("ws", " ")]), ("\t\n", [("tab", "→"), ("nl", "↵")]),
     ("\x1b", [("esc", "\\x1b")]), ("\u202e", [("esc", "\\u202e")]),
     ("\ud800", [("esc", "\\ud800")]),
     ("\u0301", [("", "◌\u0301")]), ("", [("mk", "∅")]), ("\u00a0", [("esc", "\\xa0")])],
)  # fmt: skip
def test_what_a_token_shows(text: str, shown: list[tuple[str, str]]) -> None:
    assert pieces(text) == shown


def test_long_tokens_are_cut() -> None:
    found = pieces("x" * 500)
    assert found == [("", "x" * 200), ("esc", "… 300 more")]
    assert printable("a\tb\n\x07") == "a\tb\n\\x07"
