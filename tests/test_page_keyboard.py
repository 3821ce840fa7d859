"""The page in a real browser: ways through it by key, by link, by screen reader, on paper."""

from __future__ import annotations

from typing import Any

import pytest

import tests.test_page_browser as shared
from rocktok.report.page import render_page
from tests.page_data import large, small

browser, visit, column = shared.browser, shared.visit, shared.column

ACTIVE = """() => {
  const node = document.activeElement;
  return [node.closest('.sequence')?.querySelector('h3').textContent ?? node.id, node.place];
}"""


def test_ids_beyond_what_a_script_counts_to(visit: Any) -> None:
    data = small()
    near = 2**53 + 2
    for number, sequence in enumerate(data["text"]["sequences"]):
        sequence["sequence_id"] = near + number
    data["rocks"][0]["contexts"][0]["sequence_id"] = near + 1
    at = visit(render_page(data))
    assert at.texts(".sequence h3") == [f"Sequence {near}", f"Sequence {near + 1}"]
    at.page.locator("#rock-0 summary").click()
    at.page.locator("#rock-0 a[data-sequence]").click()
    assert at.page.evaluate(ACTIVE) == [f"Sequence {near + 1}", 3]
    assert f"{near + 1} : 3" in str(at.page.locator("#tip").text_content())


def test_about_is_where_its_link_leads(visit: Any) -> None:
    for width in (1100, 400):
        at = visit(render_page(large()), reduced_motion="reduce")
        at.page.set_viewport_size({"width": width, "height": 900})
        assert at.page.locator(".tokens > bdi").count() < 20_000
        at.page.click("nav a[href='#about']")
        at.page.wait_for_timeout(500)
        top = at.page.evaluate("document.getElementById('about').getBoundingClientRect().top")
        assert 0 <= top < 900
        end = "scrollY + innerHeight - document.documentElement.scrollHeight"
        assert abs(at.page.evaluate(end)) < 2
        assert at.texts("nav [aria-current]") == ["About"]


def test_about_in_the_address(visit: Any) -> None:
    at = visit(render_page(large()))
    at.page.goto("about:blank")
    at.page.goto(f"{at.address}#about")
    at.page.wait_for_timeout(500)
    end = "scrollY + innerHeight - document.documentElement.scrollHeight"
    assert abs(at.page.evaluate(end)) < 2
    at.requests.clear()


def test_the_height_of_text_is_foreseen(visit: Any) -> None:
    at = visit(render_page(large()))
    height = "document.querySelectorAll('.sequence')[19].getBoundingClientRect().height"
    before = at.page.evaluate(height)
    at.page.locator(".sequence").nth(19).scroll_into_view_if_needed()
    at.page.locator(".sequence").nth(19).locator(".tokens > bdi.t").nth(999).wait_for()
    assert 0.75 < at.page.evaluate(height) / before < 1.33


def test_tab_goes_from_sequence_to_sequence(visit: Any) -> None:
    at = visit(render_page(large(sequences=6)))
    assert at.page.locator(".sequence").nth(5).locator(".tokens > bdi").count() == 0
    at.page.locator(".tokens").nth(0).focus()
    assert at.page.evaluate(ACTIVE) == ["Sequence 0", 0]
    at.page.keyboard.press("ArrowRight")
    for number in range(1, 6):
        at.page.keyboard.press("Tab")
        assert at.page.evaluate(ACTIVE) == [f"Sequence {number}", 0]
    at.page.keyboard.press("Tab")
    assert at.page.evaluate("document.activeElement.closest('.sequence')") is None
    at.page.keyboard.press("Shift+Tab")
    assert at.page.evaluate(ACTIVE) == ["Sequence 5", 0]
    at.page.keyboard.press("Shift+Tab")
    assert at.page.evaluate(ACTIVE) == ["Sequence 4", 0]


def test_a_line_break_leaves_no_box_on_the_next_line(visit: Any) -> None:
    at = visit(render_page(small({0: "So", 1: ".\n\n", 2: "\n", 3: "x\ny"})))
    at.page.locator(".tokens").nth(0).focus()
    rects = at.page.evaluate("""() => [...document.querySelector('.tokens').children]
      .slice(0, 4).map(t => [...t.getClientRects()].map(r => [r.left, r.width]))""")
    assert [len(one) for one in rects] == [1, 2, 1, 2]
    assert all(width > 4 for one in rects for _, width in one)
    # Each line begins where the first does.
    assert len({rects[0][0][0], rects[2][0][0], rects[3][0][0]}) == 1


def test_shades_stay_in_forced_colours(visit: Any) -> None:
    at = visit(render_page(small()), forced_colors="active")
    at.page.locator(".tokens").nth(0).focus()
    style = "([css, name]) => getComputedStyle(document.querySelector(css))[name]"
    shades = at.page.evaluate("""() => [...document.querySelectorAll('.tokens > bdi')].slice(0, 4)
      .map(t => getComputedStyle(t).backgroundColor)""")
    assert len(set(shades)) == 4
    swatches = at.page.evaluate("""() => [...document.querySelectorAll('#swatches i')]
      .map(t => getComputedStyle(t).backgroundColor)""")
    assert len(set(swatches)) == 16
    assert at.page.evaluate(style, [".tokens > .rock", "boxShadow"]) != "none"
    assert at.page.evaluate(style, ["tr.rock bdi.token", "outlineStyle"]) == "solid"
    assert at.page.evaluate(style, ["nav [aria-current]", "borderBottomStyle"]) == "solid"


@pytest.mark.parametrize("width", [400, 1100])
def test_long_strings_do_not_widen_the_page(visit: Any, width: int) -> None:
    data = small()
    long = "x" * 2000
    data |= {"title": long, "created": long, "version": long, "log": {"path": long, long: "y"}}
    data |= {"notes": [long], "missing": [dict.fromkeys(("what", "why", "remedy"), long)]}
    data["summary"] = [{"text": long, "numbers": [{"label": long, "value": long}]}]
    data["text"]["capped"] = long
    for column in data["text"]["columns"]:
        column["label"] = column["unit"] = long[:200]
    for sequence in data["text"]["sequences"]:
        sequence["prompt_id"] = sequence["prompt"] = long
    at = visit(render_page(data))
    at.page.set_viewport_size({"width": width, "height": 900})
    at.page.locator(".tokens").nth(0).focus()
    assert at.page.evaluate("document.documentElement.scrollWidth") <= width
