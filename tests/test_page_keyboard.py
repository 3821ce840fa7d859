"""The page in a real browser: ways through it by key, by link, by screen reader, on paper."""

from __future__ import annotations

from typing import Any

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
