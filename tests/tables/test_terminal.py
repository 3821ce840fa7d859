"""How a result is printed follows from where to, and from nothing else."""

from __future__ import annotations

import io
import os

import click
import pytest

from rocktok.tables.terminal import PIPE_WIDTH, ROWS, View


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environment", "on_a_terminal", "in_a_pipe"),
    [
        ({}, True, False),
        ({"TERM": "xterm-256color"}, True, False),
        ({"TERM": "dumb"}, False, False),
        ({"NO_COLOR": "1"}, False, False),
        # An empty variable says nothing: no-color.org.
        ({"NO_COLOR": ""}, True, False),
        ({"FORCE_COLOR": "1"}, True, True),
        ({"FORCE_COLOR": "1", "TERM": "dumb"}, True, True),
        ({"FORCE_COLOR": "0"}, True, False),
        ({"FORCE_COLOR": ""}, True, False),
        ({"CLICOLOR_FORCE": "1"}, True, True),
        ({"CLICOLOR_FORCE": "0"}, True, False),
        ({"CLICOLOR": "0"}, False, False),
        ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, False, False),
    ],
)
def test_color(environment: dict[str, str], on_a_terminal: bool, in_a_pipe: bool) -> None:
    assert View.of(Terminal(), environment).color is on_a_terminal
    assert View.of(io.StringIO(), environment).color is in_a_pipe


def test_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "132")
    assert (View.of(Terminal()).width, View.of(Terminal()).wraps) == (132, True)
    assert (View.of(io.StringIO()).width, View.of(io.StringIO()).wraps) == (PIPE_WIDTH, False)
    monkeypatch.delenv("COLUMNS")
    monkeypatch.setattr(os, "get_terminal_size", lambda *_: os.terminal_size((0, 0)))
    assert View.of(Terminal()).width == PIPE_WIDTH


def test_rows_of_a_list() -> None:
    rows = list(range(50))
    assert len(View().first(rows)) == ROWS == 20
    assert len(View(top=7).first(rows)) == 7
    assert len(View(everything=True, top=7).first(rows)) == 50
    # What the analysis was asked for goes before the default.
    assert len(View().first(rows, 30)) == 30
    assert len(View().first(rows, 0)) == 0
    assert len(View().first(rows, everything=True)) == 50


def test_what_was_cut_is_said_with_its_remedy() -> None:
    assert View().more(0, "--all") == []
    assert View().more(1_072, "--all") == ["… 1,072 more (--all)"]
    assert View().more(2, "--top 22", "rock tokens") == ["… 2 more rock tokens (--top 22)"]


def test_sentences_are_broken_on_a_terminal_alone() -> None:
    text = "one two three " * 20
    assert View(width=40).prose(text) == text
    lines = View(width=40, wraps=True).prose(text, indent=4).split("\n")
    assert max(map(len, lines)) <= 40
    assert all(line.startswith("    one") or line.startswith("    t") for line in lines[1:])
    assert " ".join(line.strip() for line in lines) == text.strip()


def test_styles_end_on_their_line() -> None:
    view = View(width=20, wraps=True, color=True)
    answer = view.answer(["an answer that is longer than one line", "and how sure"])
    lines = "\n".join(answer).split("\n")
    assert len(lines) == 3
    assert all(line.endswith("\x1b[0m") for line in lines[:2])
    assert lines[2] == "and how sure"
    assert click.unstyle(" ".join(lines)) == "an answer that is longer than one line and how sure"
