"""The text view and the first screen in a browser: links, back, differences, two steps, logs."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import rocktok
import tests.report.test_page_browser as shared
from rocktok.log import LogWriter
from rocktok.report.page.content import page_content
from rocktok.report.page.render import render_page
from rocktok.report.page.texts import APART, text_view, texts_of_several
from rocktok.report.passes import report
from rocktok.report.result import ReportResult
from tests.logs import RUN, alternatives_rows, rows, sequence_rows
from tests.page_data import large, small
from tests.report.samples import sample_files

browser, visit, row, Visit = shared.browser, shared.visit, shared.row, shared.Visit

STATE = "() => location.hash"


def chips() -> list[dict[str, Any]]:
    curve = [{"step": step, "loss": loss} for step, loss in ((10, 2.0), (20, 1.5), (30, 1.0))]
    instead = [{"token_id": 3, "token": "<b>x", "teacher": 0.61, "student": 0.2}]
    return [
        {"token_id": token, "token": text, "loss_pre": 2.0, "loss_post": 1.0, "loss_share": 0.25,
         "curve": curve, "instead": instead if token else []}
        for token, text in ((0, "So"), (1, " the"))
    ]  # fmt: skip


def opened() -> dict[str, Any]:
    return {**small(), "opening": {"verdict": "Two rocks.", "chips": chips(), "sure": "FDR 5%."}}


def tokens(at: Visit, sequence: int = 0) -> Any:
    return at.page.locator(".sequence").nth(sequence).locator(".tokens > bdi")


def wait_for_hash(at: Visit, wanted: str) -> None:
    at.page.wait_for_function("wanted => location.hash === wanted", arg=wanted)


def test_the_first_screen(visit: Any) -> None:
    at = visit(render_page(opened()))
    assert at.texts(".lead") == ["Two rocks."]
    assert at.texts(".sure") == ["FDR 5%."]
    assert not at.page.locator("#notes section").first.is_visible()
    assert at.page.locator(".chip .spark polyline").count() == 2
    second = at.page.locator(".chip").nth(1)
    assert "<b>x" in str(second.text_content()) and "61%" in str(second.text_content())
    height = "document.querySelector('.sure').getBoundingClientRect().bottom"
    assert at.page.evaluate(height) < 900


def test_chips_of_no_rocks_are_told_apart_and_lead_to_their_rows(visit: Any) -> None:
    chip = {**chips()[1], "token_id": 3, "token": " of", "label": "not a rock"}
    groups = [{"heading": "Not rocks: the largest sums of loss (Rock Scores)", "chips": [chip]}]
    opening = {"verdict": "No rocks.", "chips": [], "sure": "", "others": groups}
    at = visit(render_page({**small(), "opening": opening, "folded": "No figures of rocks."}))
    assert at.texts(".kind") == ["Not rocks: the largest sums of loss (Rock Scores)"]
    assert at.texts(".chip .kind-of") == ["not a rock"]
    assert "None of them is a rock." in "".join(at.texts("#tokens > p"))
    frame = "getComputedStyle(document.querySelector('.chip')).borderTopStyle"
    assert at.page.evaluate(frame) == "dashed"
    outline = "getComputedStyle(document.querySelector('.chip bdi.token')).outlineStyle"
    assert at.page.evaluate(outline) == "none"
    at.page.locator(".chip").click()
    assert at.page.evaluate("document.activeElement.dataset.token") == "3"
    assert at.page.evaluate(STATE) == ""


def test_a_chip_leads_to_its_row_and_back_leads_back(visit: Any) -> None:
    at = visit(render_page(opened()))
    at.page.locator(".chip").nth(1).click()
    assert row(at, 1).is_visible()
    assert at.page.evaluate("document.activeElement.dataset.rock") == "1"
    assert at.page.evaluate(STATE) == "#rock=1"
    at.page.locator(".chip").nth(0).click()
    assert (row(at, 0).is_visible(), row(at, 1).is_visible()) == (True, False)
    at.page.go_back()
    wait_for_hash(at, "#rock=1")
    row(at, 1).wait_for()
    assert not row(at, 0).is_visible()
    at.page.go_back()
    wait_for_hash(at, "")
    row(at, 1).wait_for(state="hidden")


def test_a_row_folds_by_its_token_and_goes_with_it(visit: Any) -> None:
    at = visit(render_page(opened()))
    link = at.page.locator("#token-rows a[data-rock='1']")
    link.click()
    assert link.get_attribute("aria-expanded") == "true"
    # Sorted, it stays under its token.
    at.page.locator("th[data-key=frequency] button").click()
    above = "document.getElementById('rock=1').previousElementSibling.dataset.token"
    assert at.page.evaluate(above) == "1"
    at.page.fill("#search", "nothing")
    assert not row(at, 1).is_visible()
    at.page.fill("#search", "")
    link.press("Enter")
    assert link.get_attribute("aria-expanded") == "false"
    assert not row(at, 1).is_visible()
    assert at.page.evaluate(STATE) == ""


def test_the_address_holds_what_is_seen(visit: Any) -> None:
    at = visit(render_page(opened()))
    at.page.locator("#token-rows a[data-rock='0']").click()
    row(at, 0).locator("a[data-sequence]").click()
    wait_for_hash(at, "#rock=0&seq=41:3")
    at.page.locator("#step").focus()
    at.page.keyboard.press("Home")
    at.page.select_option("#other", "2")
    at.page.select_option("#how", "beside")
    at.page.select_option("#scale", "linear")
    seen = "#rock=0&step=10&other=30&as=beside&scale=linear&seq=41:3"
    wait_for_hash(at, seen)
    other = visit(render_page(opened()))
    other.go(seen)
    assert row(other, 0).is_visible()
    assert other.page.locator("#step-value").text_content() == "10"
    assert other.page.locator("#scale").input_value() == "linear"
    assert other.page.locator(".pair").count() == 2
    assert other.page.evaluate("document.activeElement.place") == 3
    assert other.page.evaluate(STATE) == seen
    # The way back from the text: before it, the row.
    at.page.go_back()
    at.page.wait_for_function("() => !location.hash.includes('seq')")
    assert row(at, 0).is_visible()


@pytest.mark.parametrize("wrong", ["rock=99", "step=7&other=x", "seq=9:9", "seq=41:999", "by=none",
                                   "rock=%22%3E%3Cimg src=x onerror=window.harmed=1%3E",
                                   "as=beside&scale=__proto__"])  # fmt: skip
def test_an_address_that_names_nothing_here_does_nothing(visit: Any, wrong: str) -> None:
    at = visit(render_page(opened()))
    at.go(f"#{wrong}")
    assert at.page.locator("#step-value").text_content() == "30"
    assert at.page.locator(".is-open, .pair").count() == 0
    assert at.page.evaluate("window.harmed") is None


def test_copy_link(visit: Any) -> None:
    at = visit(render_page(opened()))
    at.page.locator(".chip").nth(1).click()
    # What is shown is written into the address first, even where it is not there yet.
    at.page.evaluate("history.replaceState(null, '', '#')")
    at.page.locator("#copy").click()
    at.page.wait_for_function("() => document.getElementById('copied').textContent !== ''")
    assert at.page.locator("#copied").text_content() in ("copied", "the address bar has it")
    assert at.page.evaluate(STATE) == "#rock=1"


def test_difference_of_two_steps(visit: Any) -> None:
    data = opened()
    # By hand: from step 10 to 30 the first falls most, the fourth rises, the third stays.
    for sequence in data["text"]["sequences"]:
        for at_step, losses in zip((0, 2), ([8, 4, 2, 1], [1, 3, 2, 5]), strict=True):
            sequence["values"]["loss"][at_step][:4] = losses
            sequence["values"]["loss"][at_step][4:] = [1.0] * (len(sequence["positions"]) - 4)
    at = visit(render_page(data))
    tokens(at).nth(0).scroll_into_view_if_needed()
    at.page.select_option("#other", "0")
    classes = [str(tokens(at).nth(i).get_attribute("class")).split()[-1] for i in range(4)]
    levels = [int(c[1:]) if c[1:].isdigit() else None for c in classes]
    assert levels[2] is None
    assert levels[0] is not None and levels[1] is not None and levels[3] is not None
    assert levels[0] < levels[1] < 8 <= levels[3]
    tokens(at).nth(0).hover()
    said = str(at.page.locator("#tip").text_content())
    assert "above step 10−7.00 nats" in said
    bars = at.page.locator("#bars .mean")
    assert bars.first.text_content() == "−0.333"  # (−7 − 1 + 0 + 4) / 12
    assert at.page.locator("#scale option[value=log]").is_disabled()
    # Of a step from itself nothing is left, and nothing is shaded.
    at.page.select_option("#other", "2")
    assert at.page.locator(".sequence").nth(0).locator("[class*=' d'], .bx").count() == 0
    assert at.page.locator("#scale-high").text_content() == "0 nats, by quantile"
    at.page.select_option("#other", "")
    assert str(tokens(at).nth(0).get_attribute("class")).split()[-1].startswith("b")


def test_two_steps_side_by_side(visit: Any) -> None:
    at = visit(render_page(opened()))
    tokens(at).nth(0).scroll_into_view_if_needed()
    at.settle()
    at.page.select_option("#other", "0")
    at.page.select_option("#how", "beside")
    sides = at.page.locator(".sequence").nth(0).locator(".pair > div")
    assert [s.split("step ")[1][:2] for s in sides.all_text_contents()] == ["10", "30"]
    left, right = (sides.nth(k).locator("bdi.t").nth(3) for k in (0, 1))
    left.hover()
    assert "loss4.00 nats" in str(at.page.locator("#tip").text_content())
    right.hover()
    assert "loss1.33 nats" in str(at.page.locator("#tip").text_content())
    # One stop of the Tab key for each sequence still, and one text for a screen reader.
    assert sides.nth(0).locator("[tabindex]").count() == 0
    assert at.page.locator(".pair [aria-hidden=true]").count() == 2
    at.page.select_option("#other", "")
    assert at.page.locator(".pair").count() == 0
    assert tokens(at).count() == 12


def test_the_overview_orders_and_filters(visit: Any) -> None:
    data = opened()
    first, second = data["text"]["sequences"]
    first |= {"domain": "math", "correct": True}
    second |= {"domain": "code", "correct": False}
    second["values"]["loss"][2] = [9.0] * len(second["positions"])
    at = visit(render_page(data))
    names = "[...document.querySelectorAll('#bars .name')].map(n => n.textContent)"
    assert at.page.evaluate(names) == ["40", "41"]
    at.page.select_option("#order", "mean")
    assert at.page.evaluate(names) == ["41", "40"]
    assert at.texts(".sequence h3") == ["Sequence 41", "Sequence 40"]
    wide = "[...document.querySelectorAll('#bars .bar')].map(b => b.style.width)"
    assert at.page.evaluate(wide)[0] == "100%"
    for select, value, left in (("#by-domain", "math", "40"), ("#by-correct", "wrong", "41")):
        at.page.select_option(select, value)
        assert at.texts(".sequence:not([hidden]) h3") == [f"Sequence {left}"]
        assert at.page.locator("#overview-count").text_content() == "1 of 2 shown"
        at.page.select_option(select, "")
    at.page.fill("#by-prompt", "prompt-1")
    assert at.texts(".sequence:not([hidden]) h3") == ["Sequence 41"]
    # A link to a sequence that is filtered out shows it all the same.
    at.page.evaluate("location.hash = 'seq=40:2'")
    at.page.wait_for_function("() => document.activeElement.place === 2")
    assert at.page.locator("#by-log").is_hidden()
    at.page.fill("#by-prompt", "")
    at.page.locator("#bars a").first.click()
    assert at.page.evaluate("document.activeElement.closest('.sequence').innerText").startswith(
        "Sequence 41")  # fmt: skip


def test_a_point_of_a_figure_leads_to_its_row(visit: Any) -> None:
    data = opened()
    svg = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 50"/>'
    points = [
        {"token_id": v, "x": 20.0 + 40 * v, "y": 25.0, "values": [("mean loss (nats)", 1.25)]}
        for v in (1, 2)
    ]
    data["figures"] = [
        {"name": "funnel", "title": "Loss", "caption": "c", "alt": "a", "svg": svg, "width": "one",
         "takeaway": "Rocks are hard", "points": points, "files": {"svg": "figures/funnel.svg"}}
    ]  # fmt: skip
    at = visit(render_page(data))
    assert at.texts(".takeaway") == ["Rocks are hard."]
    assert at.page.locator(".download").get_attribute("href") == "figures/funnel.svg"
    hits = at.page.locator(".hit")
    hits.nth(0).hover()
    tip = at.page.locator("#figure-tip")
    assert "the" in str(tip.text_content()) and "mean loss (nats)1.25" in str(tip.text_content())
    at.page.mouse.move(1, 1)
    tip.wait_for(state="hidden")
    hits.nth(0).click()
    assert row(at, 1).is_visible()
    # A type that is no rock has a row, too, even if a search had left it out.
    at.page.fill("#search", "So")
    hits.nth(1).click()
    assert at.page.evaluate("document.activeElement.dataset.token") == "2"
    assert at.page.locator("#search").input_value() == ""


def test_keys_go_through_the_points_of_a_figure(visit: Any) -> None:
    at = visit(render_page(with_points()))
    tip = at.page.locator("#figure-tip")
    drawings = at.page.locator(".drawing")
    assert drawings.evaluate_all("all => all.map((one) => one.tabIndex)") == [0, -1]
    assert "3 points: arrow keys" in str(drawings.first.get_attribute("aria-label"))
    drawings.first.focus()
    assert tip.is_hidden()
    # From left to right, whatever their order in the file; ends are ends.
    for key, loss in [("ArrowRight", 0.5), ("ArrowRight", 1.25), ("ArrowDown", 2.5),
                      ("ArrowRight", 2.5), ("ArrowLeft", 1.25), ("Home", 0.5),
                      ("ArrowUp", 0.5), ("End", 2.5)]:  # fmt: skip
        at.page.keyboard.press(key)
        assert float(str(tip.text_content()).partition("mean loss (nats)")[2]) == loss, key
        assert tip.is_visible()
    at.page.keyboard.press("Escape")
    assert tip.is_hidden()
    at.page.keyboard.press("End")
    at.page.keyboard.press("Enter")
    assert tip.is_hidden()
    assert at.page.evaluate("document.activeElement.dataset.token") == "2"
    # Without focus nothing is said.
    drawings.first.focus()
    at.page.keyboard.press("Home")
    at.page.keyboard.press("Tab")
    assert tip.is_hidden()


def test_a_tap_says_and_a_second_one_leads(visit: Any) -> None:
    at = visit(render_page(with_points()), has_touch=True)
    hits, tip = at.page.locator(".hit"), at.page.locator("#figure-tip")
    hits.nth(0).tap()
    assert tip.is_visible()
    hits.nth(1).tap()
    assert "2.50" in str(tip.text_content())
    assert at.page.evaluate("document.activeElement.dataset.token ?? null") is None
    hits.nth(1).tap()
    assert tip.is_hidden()
    assert at.page.evaluate("document.activeElement.dataset.token") == "2"


def with_points() -> dict[str, Any]:
    """A page with a figure of three points, and one of none."""
    data = opened()
    svg = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 50"/>'
    points = [
        {"token_id": v, "x": x, "y": 25.0, "values": [("mean loss (nats)", loss)]}
        for v, x, loss in ((1, 10.0, 0.5), (1, 50.0, 1.25), (2, 90.0, 2.5))
    ]
    one = {"title": "Loss", "caption": "c", "alt": "a", "svg": svg, "width": "one",
           "takeaway": "Rocks are hard", "files": {}}  # fmt: skip
    data["figures"] = [
        {**one, "name": "funnel", "points": [points[1], points[2], points[0]]},
        {**one, "name": "ccr", "points": []},
    ]
    return data


# -- what the models held likely ------------------------------------------------------------


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> ReportResult:
    """A log with alternatives at 0 and 10, of three steps, in which most types are rocks."""
    path = tmp_path_factory.mktemp("told") / "log"
    vocab = [(i, f" t{i}", b" t%d" % i) for i in range(50)]
    with LogWriter(path, run=RUN, vocab=vocab) as writer:
        writer.write(sequence_rows(range(30)), table="sequences")
        for step in (0, 5, 10):
            writer.write(rows(step, range(30)), table="fixed")
            writer.finish_step(step, "fixed")
            if step != 5:
                writer.write(alternatives_rows(step, range(30)), table="alternatives")
                writer.finish_step(step, "alternatives")
            writer.flush()
    return report(rocktok.open(path), replicates=100, lifts=False, sequences=6, tau_pre=0.01,
                  tau_post=0.01, gamma=0.05, eta=0.0)  # fmt: skip


def test_alternatives_are_those_of_the_log(told: ReportResult) -> None:
    assert told.texts is not None and len(told.texts["sequences"]) == 6
    for text in told.texts["sequences"]:
        others = text["alternatives"]
        assert list(others["student"]) == ["0", "10"]
        for step in (0, 10):
            batch = alternatives_rows(step, range(30))
            here = batch["sequence_id"] == text["sequence_id"]
            for model, found in (("student", others["student"][str(step)]),
                                 ("teacher", others["teacher"])):  # fmt: skip
                if model == "teacher" and step == 0:
                    continue  # that of the last step is shown
                assert [one[::2] for one in found] == batch[f"{model}_ids"][here][:, :3].tolist()
                shown = np.array([one[1::2] for one in found])
                np.testing.assert_allclose(shown, batch[f"{model}_probs"][here][:, :3], atol=0.01)
    assert all(v in told.token_texts for v in range(50))


def test_alternatives_in_the_note(visit: Any, told: ReportResult) -> None:
    at = visit(render_page(page_content(told, [], [])))
    assert told.texts is not None
    text = told.texts["sequences"][0]
    # Its tokens are made once they come near.
    at.page.locator(".sequence").first.scroll_into_view_if_needed()
    tokens(at).nth(0).scroll_into_view_if_needed()
    tokens(at).nth(2).hover()
    head = at.page.locator("#tip table th").all_text_contents()
    assert head == ["teacher", "student, step 10"]
    v, p = text["alternatives"]["teacher"][2][:2]
    first = str(at.page.locator("#tip table td").first.text_content())
    assert first == f" t{v:.0f} {100 * p:.0f}%"
    at.page.select_option("#other", "0")
    at.page.select_option("#how", "beside")
    at.page.locator(".pair bdi.t").nth(2).hover()
    assert at.page.locator("#tip table th").nth(1).text_content() == "student, step 0"
    # What the teacher wanted stands with the rock, and leads nowhere else.
    at.page.locator("#token-rows a[data-rock]").first.click()
    assert at.page.locator(".is-open table.instead tbody tr").count() > 1


# -- several logs ---------------------------------------------------------------------------


def test_texts_of_logs_with_the_same_vocabulary(visit: Any, told: ReportResult) -> None:
    found = texts_of_several([told, told], ["one", "two"])
    assert found is not None
    assert [one["log"] for one in found["sequences"]] == [0] * 6 + [1] * 6
    assert found["steps"] == [0, 5, 10]
    assert found["logs"] == [("one", list(told.rocks)), ("two", list(told.rocks))]
    at = visit(render_page({**small(), "text": found}))
    at.page.select_option("#by-log", "two")
    assert at.page.locator("#overview-count").text_content() == "6 of 12 shown"
    shown = at.page.locator(".sequence:not([hidden]) header")
    assert all("two · prompt " in text for text in shown.all_text_contents())
    at.page.select_option("#by-log", "")
    at.page.locator("#bars a").nth(7).click()
    place = f"{found['sequences'][7]['sequence_id']}:0:1"
    wait_for_hash(at, f"#seq={place}")


def test_texts_of_logs_with_other_vocabularies_and_steps(told: ReportResult) -> None:
    assert told.texts is not None
    texts = {v: text.upper() for v, text in told.token_texts.items()}
    cut: Any = {**told.texts, "steps": [0, 7, 10]}
    other = replace(told, token_texts=texts, texts=cut)
    found = texts_of_several([told, other], ["one", "two"])
    assert found is not None
    assert found["steps"] == [0, 5, 7, 10]
    first, second = found["sequences"][0], found["sequences"][6]
    assert second["token_ids"] == [v + APART for v in first["token_ids"]]
    assert found["tokens"][str(first["token_ids"][0] + APART)].startswith(" T")
    assert [len(v) for v in first["values"]["loss"]] == [12, 12, 0, 12]
    assert [len(v) for v in second["values"]["loss"]] == [12, 0, 12, 12]
    ids = {v for one in second["alternatives"]["teacher"] for v in one[::2]}
    assert min(ids) >= APART and all(str(int(v)) in found["tokens"] for v in ids)
    assert found["logs"][1][1] == [v + APART for v in told.rocks]
    json.dumps(found)


def test_without_any_text_there_is_none(told: ReportResult) -> None:
    assert texts_of_several([replace(told, texts=None)], ["one"]) is None
    assert text_view(replace(told, texts=None)) is None


# -- how fast -------------------------------------------------------------------------------


def test_the_page_of_the_sample_is_there_at_once(visit: Any) -> None:
    page = sample_files()["report.html"]
    painted = """() => new Promise(done => new PerformanceObserver(list =>
      done(list.getEntriesByName('first-contentful-paint')[0].startTime))
      .observe({ type: 'paint', buffered: true }))"""
    # The best of three, as other work shares the processor.
    assert min(visit(page).page.evaluate(painted) for _ in range(3)) < 1000


@pytest.mark.parametrize("how", ["difference", "beside"])
def test_a_step_against_another_is_shaded_at_once(visit: Any, how: str) -> None:
    at = visit(render_page(large()))
    at.page.locator(".sequence").nth(0).scroll_into_view_if_needed()
    tokens(at).nth(999).wait_for()
    at.page.select_option("#other", "0")
    at.page.select_option("#how", how)
    script = """() => {
      const slider = document.getElementById('step');
      return Math.min(...Array.from({ length: 20 }, (_, step) => {
        slider.value = step;
        const began = performance.now();
        slider.dispatchEvent(new Event('input'));
        document.body.getBoundingClientRect();
        return performance.now() - began;
      }));
    }"""
    assert at.page.evaluate(script) < 50
