"""Sequences as text in a notebook: the numbers of the log, in a frame of their own."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rocktok
from rocktok.errors import LogError, UsageError
from rocktok.log import LogWriter
from rocktok.report.page.labels import column_label
from rocktok.report.text_passes import TextView
from rocktok.schema import OPTIONAL_STATISTICS
from tests.logs import RUN, rows, sequence_rows
from tests.page_data import HARMFUL
from tests.paths import SAMPLE
from tests.report.test_page_browser import browser, visit

__all__ = ["browser", "visit"]  # fixtures


@pytest.fixture(scope="module")
def log() -> rocktok.Log:
    return rocktok.open(SAMPLE)


@pytest.fixture(scope="module")
def found(log: rocktok.Log) -> Any:
    return rocktok.detect(log)


def read(log: rocktok.Log, table: str, v: int) -> dict[int, dict[str, Any]]:
    """Step → columns of a sequence, in order of position."""
    parts: dict[int, list[dict[str, Any]]] = {}
    for batch in log.scan(table, ["token_id", "loss", "grad_norm"]):
        here = batch.columns["sequence_id"] == v
        for step in np.unique(batch.columns["step"][here]).tolist():
            keep = here & (batch.columns["step"] == step)
            parts.setdefault(step, []).append({n: c[keep] for n, c in batch.columns.items()})
    whole = {}
    for step, some in parts.items():
        columns = {n: np.concatenate([part[n] for part in some]) for n in some[0]}
        order = np.argsort(columns["position"])
        whole[step] = {name: values[order] for name, values in columns.items()}
    return whole


def test_kept_text_is_what_the_log_holds(log: rocktok.Log, found: Any) -> None:
    content = rocktok.text(log, [112, 51], detected=found).content
    assert content["table"] == "fixed" and content["steps"] == log.complete_steps("fixed")
    assert content["columns"][0]["key"] == "loss"
    assert content["total"] == 256 and content["capped"] is None
    rocks = {row["token_id"] for row in found.rocks}
    for sequence in content["sequences"]:
        twin = read(log, "fixed", sequence["sequence_id"])
        assert sequence["token_ids"] == twin[500]["token_id"].tolist()
        for name in ("loss", "grad_norm"):
            for shown, step in zip(sequence["values"][name], content["steps"], strict=True):
                assert shown == pytest.approx(twin[step][name].tolist(), rel=1e-3)
        tau = found.thresholds
        pre, post = twin[found.log["pre"]]["loss"], twin[found.log["post"]]["loss"]
        hard = (pre >= tau["tau_pre"]) & (post >= tau["tau_post"])
        assert sequence["persistent"] == hard.astype(int).tolist() and hard.any()
        # Which contexts recur is not judged, and not said to be none.
        assert sequence["retained"] == []
        assert sequence["prompt"] and sequence["why"] == "asked for"
    used = {v for sequence in content["sequences"] for v in sequence["token_ids"]}
    assert content["rocks"] == sorted(rocks & used)
    assert content["tokens"] == {str(v): log.vocab.text(v) for v in used}


def test_a_draw_is_the_same_each_time_and_another_by_another_seed(log: rocktok.Log) -> None:
    first, again, other = (rocktok.text(SAMPLE, seed=seed) for seed in (0, 0, 1))
    assert first.content == again.content and len(first.sequences) == 3
    assert first.to_html() == again.to_html()
    assert first.sequences != other.sequences
    assert all(sequence["persistent"] == [] for sequence in first.content["sequences"])
    assert repr(first) == (
        f"text of 3 sequences of {log.name} (fixed/, step "
        f"{', '.join(map(str, log.complete_steps('fixed')))})"
    )


def test_rollouts_are_shown_at_the_step_that_wrote_them(log: rocktok.Log) -> None:
    steps = {}
    for batch in log.scan("rollout", ["loss"]):
        for v, step in zip(batch.columns["sequence_id"], batch.columns["step"], strict=True):
            steps.setdefault(int(step), int(v))
    first, last = steps[min(steps)], steps[max(steps)]
    content = rocktok.text(log, (first, last), table="rollout").content
    assert content["steps"] == [min(steps), max(steps)]
    assert not any(column["by_step"] for column in content["columns"])
    for sequence, step in zip(content["sequences"], content["steps"], strict=True):
        twin = read(log, "rollout", sequence["sequence_id"])
        assert list(twin) == [step]
        (losses,) = sequence["values"]["loss"]
        assert losses == pytest.approx(twin[step]["loss"].tolist(), rel=1e-3)
    assert len(rocktok.text(log, table="rollout", sequences=2).sequences) == 2


def test_what_cannot_be_shown_is_said(log: rocktok.Log, found: Any, tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"fixed/ has no sequence -5 at step 8, .*sequence_id"):
        rocktok.text(log, [51, -5])
    with pytest.raises(UsageError, match="sequence names none"):
        rocktok.text(log, [])
    with pytest.raises(UsageError, match="sequences is 0; it must be 1 or more"):
        rocktok.text(log, sequences=0)
    with pytest.raises(TypeError, match="did you mean 'sequence'"):
        rocktok.text(log, sequenc=3)
    with LogWriter(tmp_path, run=RUN) as writer:
        writer.write(rows(0, range(3)), table="rollout")
        writer.finish_step(0, "rollout")
    with pytest.raises(UsageError, match=r"detected is of run .*; give what `rocktok.detect`"):
        rocktok.text(tmp_path, detected=found)
    with pytest.raises(LogError, match="has no fixed/ table; it has rollout"):
        rocktok.text(tmp_path, table="fixed")
    # Without sequences/ and vocab.parquet there are still tokens and losses.
    content = rocktok.text(tmp_path, 2).content
    assert content["sequences"][0]["prompt"] is None
    assert len(content["sequences"][0]["values"]["loss"][0]) == 12


def test_long_text_is_cut(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with LogWriter(tmp_path, run=RUN) as writer:
        for step in (0, 10):
            writer.write(rows(step, range(3), tokens=40), table="fixed")
            writer.finish_step(step, "fixed")
    monkeypatch.setattr("rocktok.report.text_passes.VALUES", 2 * 50)
    content = rocktok.text(tmp_path, [0, 1, 2]).content
    assert [len(s["token_ids"]) for s in content["sequences"]] == [40]
    assert content["capped"] == "2 sequences left out: 100 values at most."
    monkeypatch.setattr("rocktok.report.text_passes.VALUES", 2 * 30)
    content = rocktok.text(tmp_path, 1).content
    (sequence,) = content["sequences"]
    assert len(sequence["token_ids"]) == len(sequence["values"]["loss"][1]) == 30
    assert content["capped"] == "Sequence 1 is shown up to its token 30 of 40."


class _Frames(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.opened: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.opened.append((tag, dict(attrs)))


@pytest.fixture
def harmful(tmp_path: Path) -> TextView:
    raw = [text.encode("utf-8", "surrogatepass")[:300] for text in HARMFUL]
    vocab = [(i, "?", raw[i] if i < len(raw) else b"t%d" % i) for i in range(50)]
    with LogWriter(tmp_path / "log", run=RUN, vocab=vocab) as writer:
        writer.write(sequence_rows(range(9)), table="sequences")
        for step in (0, 10):
            writer.write(rows(step, range(9), tokens=40), table="fixed")
            writer.finish_step(step, "fixed")
    return rocktok.text(tmp_path / "log", range(9))


def test_a_notebook_gets_one_frame_and_nothing_else(harmful: TextView) -> None:
    """Whatever tokens say: neither script nor style of the page is in the notebook's own page."""
    (frame,) = _Frames(harmful._repr_html_()).opened
    assert frame[0] == "iframe"
    # Without allow-same-origin it has no way to the notebook.
    assert frame[1]["sandbox"] == "allow-scripts"
    assert frame[1]["srcdoc"] == harmful.to_html()


def test_the_frame_in_a_browser(harmful: TextView, visit: Any) -> None:
    at = visit(f"<!DOCTYPE html><body>{harmful._repr_html_()}</body>")
    frame = at.page.frame_locator("iframe")
    frame.locator(".sequence .t").first.wait_for()
    assert frame.locator("nav").is_hidden() and frame.locator("footer").is_hidden()
    assert frame.locator("#sequences .sequence").count() == 9
    assert frame.locator("#mark-retained").is_hidden()
    assert "retained" not in frame.locator(".sequence header").first.inner_text()
    frame.locator(".sequence .t").first.focus()
    frame.locator("#tip").wait_for()
    frame.locator("#step").press("ArrowLeft")
    assert frame.locator("#step-value").inner_text() == "0"
    frame.locator(".sequence .t").first.press("Enter")
    frame.locator("#found").wait_for()
    assert at.page.evaluate("window.harmed") is None
    assert frame.locator("body").evaluate("() => window.harmed") is None
    at.requests = [url for url in at.requests if url != "about:srcdoc"]


def test_every_column_has_a_label() -> None:
    """A report of a log with any of them must not end at a name that nobody knew."""
    labels = [column_label(name) for name in ("loss", *OPTIONAL_STATISTICS)]
    assert len(set(labels)) == len(labels)
    assert labels[0] == "loss" and not any("_" in label for label in labels)
