"""The page in a real browser: ways through it by key, by link, by screen reader, on paper."""

from __future__ import annotations

from typing import Any

import pytest

import tests.report.test_page_browser as shared
from rocktok.report.page.render import render_page
from tests.page_data import figure, large, small

browser, visit, column, Visit = shared.browser, shared.visit, shared.column, shared.Visit
row, FRAMES = shared.row, shared.FRAMES

AT_END = "() => Math.abs(scrollY + innerHeight - document.documentElement.scrollHeight) < 2"
ACTIVE = """() => {
  const node = document.activeElement;
  return [node.closest('.sequence')?.querySelector('h3').textContent ?? node.id, node.place];
}"""


def enter(at: Visit) -> None:
    """Go to the first token as the Tab key does, whether or not the tokens are made."""
    at.page.evaluate("""() => {
      const box = document.querySelector('.tokens');
      (box.hasAttribute('tabindex') ? box : box.querySelector('[tabindex]')).focus();
    }""")


def test_ids_beyond_what_a_script_counts_to(visit: Any) -> None:
    data = small()
    near = 2**53 + 2
    for number, sequence in enumerate(data["text"]["sequences"]):
        sequence["sequence_id"] = near + number
    data["rocks"][0]["contexts"][0]["sequence_id"] = near + 1
    at = visit(render_page(data))
    assert at.texts(".sequence h3") == [f"Sequence {near}", f"Sequence {near + 1}"]
    at.page.locator("#token-rows a").first.click()
    row(at, 0).locator("a[data-sequence]").click()
    assert at.page.evaluate(ACTIVE) == [f"Sequence {near + 1}", 3]
    assert f"{near + 1} : 3" in str(at.page.locator("#tip").text_content())


def test_about_is_where_its_link_leads(visit: Any) -> None:
    for width in (1100, 400):
        at = visit(render_page(large()), reduced_motion="reduce")
        at.page.set_viewport_size({"width": width, "height": 900})
        assert at.page.locator(".tokens > bdi").count() < 20_000
        at.page.click("nav a[href='#about']")
        at.page.wait_for_function(AT_END)
        at.page.locator("nav [aria-current]", has_text="About").wait_for()
        # It stays there once all text that is near has been made.
        at.settle()
        top = at.page.evaluate("document.getElementById('about').getBoundingClientRect().top")
        assert 0 <= top < 900
        assert at.page.evaluate(AT_END)
        assert at.texts("nav [aria-current]") == ["About"]


def test_about_in_the_address(visit: Any) -> None:
    at = visit(render_page(large()))
    at.go("#about")
    at.page.wait_for_function(AT_END)
    at.settle()
    assert at.page.evaluate(AT_END)


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
    enter(at)
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
    enter(at)
    rects = at.page.evaluate("""() => [...document.querySelector('.tokens').children]
      .slice(0, 4).map(t => [...t.getClientRects()].map(r => [r.left, r.width]))""")
    assert [len(one) for one in rects] == [1, 2, 1, 2]
    assert all(width > 4 for one in rects for _, width in one)
    # Each line begins where the first does.
    assert len({rects[0][0][0], rects[2][0][0], rects[3][0][0]}) == 1


def test_shades_stay_in_forced_colours(visit: Any) -> None:
    at = visit(render_page(small()), forced_colors="active")
    enter(at)
    style = "([css, name]) => getComputedStyle(document.querySelector(css))[name]"
    shades = at.page.evaluate("""() => [...document.querySelectorAll('.tokens > bdi')].slice(0, 4)
      .map(t => getComputedStyle(t).backgroundColor)""")
    assert len(set(shades)) == 4
    swatches = at.page.evaluate("""() => [...document.querySelectorAll('#swatches i')]
      .map(t => getComputedStyle(t).backgroundColor)""")
    assert len(set(swatches)) == 16
    assert at.page.evaluate(style, [".tokens > .rock", "boxShadow"]) != "none"
    assert at.page.evaluate(style, ["tr.rock bdi.token", "outlineStyle"]) == "solid"
    at.page.locator("nav [aria-current]").wait_for()
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
    enter(at)
    assert at.page.evaluate("document.documentElement.scrollWidth") <= width


def names(at: Visit, selector: str) -> list[str]:
    """Names as a screen reader is given them."""
    tree = at.page.context.new_cdp_session(at.page)
    root = tree.send("DOM.getDocument")["root"]["nodeId"]
    found = []
    for node in tree.send("DOM.querySelectorAll", {"nodeId": root, "selector": selector})[
        "nodeIds"
    ]:
        one = tree.send("Accessibility.getPartialAXTree", {"nodeId": node, "fetchRelatives": False})
        found.append(one["nodes"][0].get("name", {}).get("value", ""))
    return found


def test_names_for_a_screen_reader(visit: Any) -> None:
    data = small({0: "  ", 1: " the", 2: "\n", 3: "x"})
    data["figures"] = [{**figure("density"), "alt": figure("density")["caption"]}]
    at = visit(render_page(data))
    assert names(at, "#token-table thead th button")[:3] == ["rank", "token", "id"]
    assert names(at, "#token-rows a[data-rock]") == ["␣␣", "␣the"]
    assert names(at, ".drawing") == ["Density. Figure: Density"]
    enter(at)
    assert names(at, ".tokens > [role=button]") == ["␣␣"]
    at.page.keyboard.press("End")
    assert names(at, ".tokens > [role=button]") == ["x"]
    play = at.page.locator("#play")
    play.click()
    assert (play.text_content(), play.get_attribute("aria-pressed")) == ("Pause", None)


def test_space_and_escape(visit: Any) -> None:
    at = visit(render_page(small()), reduced_motion="reduce")
    enter(at)
    at.page.evaluate(FRAMES)
    before = at.page.evaluate("scrollY")
    at.page.keyboard.press("Space")
    assert "5 occurrences" in str(at.page.locator("#found-text").text_content())
    at.page.evaluate(FRAMES)
    # The line of what was found is shown above the text; a page down would be some 800 pixels.
    after = at.page.evaluate("scrollY")
    assert abs(after - before) < 100
    at.page.evaluate("document.activeElement.blur()")
    at.page.locator(".tokens > bdi").nth(1).hover()
    assert at.page.locator("#tip").is_visible()
    at.page.keyboard.press("Escape")
    assert not at.page.locator("#tip").is_visible()


def test_paper_says_what_it_lacks(visit: Any) -> None:
    at = visit(render_page(small()))
    at.page.emulate_media(media="print")
    assert not row(at, 0).is_visible()
    assert not at.page.get_by_text("A rock's token unfolds its contexts").is_visible()
    said = at.page.get_by_text("On screen only: the contexts of rocks that were not unfolded, and")
    assert said.is_visible()
    at.page.emulate_media(media="screen")
    assert not said.is_visible()
    at.page.locator("#token-rows a").first.click()
    at.page.emulate_media(media="print")
    assert row(at, 0).locator(".contexts li").is_visible()
    assert not row(at, 1).is_visible()


def test_notes_and_captions_are_on_paper(visit: Any) -> None:
    data = small()
    data |= {"notes": ["Losses fell."], "figures": [figure("density")]}
    at = visit(render_page(data))
    note, caption = at.page.locator("#notes li"), at.page.locator(".caption p")
    assert (note.is_visible(), caption.is_visible()) == (False, False)
    at.page.emulate_media(media="print")
    note.wait_for()
    caption.wait_for()
    at.page.emulate_media(media="screen")
    note.wait_for(state="hidden")
    caption.wait_for(state="hidden")


def test_search_by_id_and_with_blanks(visit: Any) -> None:
    data = small({1: " So", 12: "x1", 1000: "\n", 1001: "–", 5: "a  b"})
    for row in data["table"]["rows"]:
        row["cluster"] = 7
    at = visit(render_page(data))
    assert column(at, "token_id") == ["1", "5", "12", "1000", "1001"]
    wanted = {"1": ["1", "12"], "1000": ["1000"], "100": [], "So ": ["1"], " so": ["1"]}
    for typed, found in {**wanted, " x1": ["12"], " ": ["1", "5"], "'": []}.items():
        at.page.fill("#search", typed)
        assert column(at, "token_id") == found, typed
    at.page.fill("#search", "")
    # A token that reads like the sign for no value is no missing one.
    at.page.locator("th[data-key=token] button").click()
    down = column(at, "token")
    at.page.locator("th[data-key=token] button").click()
    assert column(at, "token") == down[::-1]


def test_numbers_have_the_same_digits(visit: Any) -> None:
    data = small()
    for row, loss in zip(data["table"]["rows"], (0.001234, 0.000516, 0.05, 0.5), strict=True):
        row["mean_loss"] = loss
    at = visit(render_page(data))
    assert column(at, "mean_loss") == ["0.00123", "5.16e-04", "0.0500", "0.500"]
    data = small()
    for sequence in data["text"]["sequences"]:
        sequence["values"]["loss"][-1][:5] = [0.001234, 0.000516, 0.05, 12.34, 123.4]
    at = visit(render_page(data))
    enter(at)
    for shown in ("0.00123", "5.16e−4", "0.0500", "12.3", "123"):
        assert f"loss{shown} nats" in str(at.page.locator("#tip").text_content())
        at.page.keyboard.press("ArrowRight")


def test_an_address_with_a_rock_opens_it(visit: Any) -> None:
    at = visit(render_page(small()))
    # That of an older page, too.
    for name in ("rock=1", "rock-1"):
        at.go(f"#{name}")
        assert row(at, 1).is_visible()
        assert not row(at, 0).is_visible()
    at.page.evaluate("location.hash = 'rock=0'")
    row(at, 0).wait_for()
    assert not row(at, 1).is_visible()


def test_rank_columns_of_a_comparison_begin_with_the_first(visit: Any) -> None:
    data = small()
    data["table"]["columns"][0]["key"] = "rank_a"
    for row in data["table"]["rows"]:
        row["rank_a"] = 5 - row["rank"]
    at = visit(render_page(data))
    at.page.locator("th[data-key=rank_a] button").click()
    assert column(at, "rank_a") == ["1", "2", "3", "4"]


def test_what_the_page_says_of_times_steps_and_dates(visit: Any) -> None:
    data = small()
    data["rocks"][0]["contexts"][0]["times"] = 21
    data["created"] = "2026-01-31"
    at = visit(render_page(data))
    assert "×21 · " in "".join(row(at, 0).locator("li .facts").all_text_contents())
    assert "×" not in "".join(row(at, 1).locator("li .facts").all_text_contents())
    assert "scored at 3 steps." in "".join(at.texts("#text > p"))
    assert "; log recorded 2026-01-31." in "".join(at.texts("#about"))
    one = visit(render_page(small(steps=(7,))))
    assert "scored at step 7." in "".join(one.texts("#text > p"))


def test_numbers_on_paper_stay_in_one_piece(visit: Any) -> None:
    at = visit(render_page(small()))
    at.page.emulate_media(media="print")
    at.page.set_viewport_size({"width": 200, "height": 900})
    wrap = "getComputedStyle(document.querySelector('td.integer')).overflowWrap"
    assert at.page.evaluate(wrap) == "normal"
    lines = """() => [...document.querySelectorAll('td.integer')].map(cell => {
      const range = document.createRange();
      range.selectNodeContents(cell);
      return range.getClientRects().length;
    })"""
    assert set(at.page.evaluate(lines)) == {1}
