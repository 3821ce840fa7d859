"""The page in a real browser: sorting, search, slider, keyboard, and text that means harm.

Chromium of the system, headless, through Playwright. Without one the tests are skipped, but where
ROCKTOK_BROWSER says `required`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

import rocktok
from rocktok.log import LogWriter
from rocktok.report.page.files import render_report
from rocktok.report.page.render import render_page
from rocktok.report.passes import report
from tests.logs import RUN, rows, sequence_rows
from tests.page_data import HARMFUL, harmful, large, small
from tests.report.samples import sample_files

NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if BROWSER is None:
        assert os.environ.get("ROCKTOK_BROWSER") != "required", "no Chromium on this machine"
        pytest.skip("no Chromium on this machine; install the package chromium")
    from playwright.sync_api import sync_playwright

    # Chromium makes a Unix socket among its temporary files, whose path may be too long.
    with (
        TemporaryDirectory(prefix="rocktok-", dir="/tmp") as short,
        sync_playwright() as playwright,
    ):
        opened = playwright.chromium.launch(
            executable_path=BROWSER, args=ARGUMENTS, env=os.environ | {"TMPDIR": short}
        )
        yield opened
        opened.close()


# The page was told what is near the window, and what is has its tokens, shaded as of now.
SETTLED = """() => [...document.querySelectorAll('.sequence:not([hidden])')].every(section => {
  const { top, bottom } = section.getBoundingClientRect();
  const near = bottom > -500 && top < innerHeight + 500;
  return !section.sequence || !near || (section.sequence.near && section.sequence.nodes);
})"""
# What an event or a scroll sets off has been laid out and drawn.
FRAMES = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"


class Visit:
    """A page open in the browser, with all that went wrong or out while it was."""

    def __init__(self, browser: Any, path: Path, **options: Any) -> None:
        self.context = browser.new_context(viewport={"width": 1100, "height": 900}, **options)
        self.page = self.context.new_page()
        self.wrong: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda m: self.wrong.append(f"{m.type}: {m.text}"))
        self.page.on("pageerror", lambda e: self.wrong.append(str(e)))
        self.page.on("request", lambda r: self.requests.append(r.url))
        self.page.on("dialog", lambda d: (self.wrong.append("dialog"), d.dismiss()))
        self.address = path.as_uri()
        self.go()

    def go(self, hash: str = "") -> None:
        """Open the page, or open it again, and wait for its text."""
        if hash:
            self.page.goto("about:blank")
        self.page.goto(f"{self.address}{hash}")
        self.settle()

    def settle(self) -> None:
        """Wait until what is near the window is made: tokens are made as they come near."""
        self.page.wait_for_function(SETTLED)

    def close(self) -> None:
        """Nothing went wrong, and nothing was asked for but the page and what it holds."""
        own = (self.address, "about:blank")
        asked = [u for u in self.requests if u.partition("#")[0] not in own]
        outside = [u for u in asked if not u.startswith("data:")]
        self.context.close()
        assert self.wrong == []
        assert outside == []

    def texts(self, selector: str) -> list[str]:
        return [str(t) for t in self.page.locator(selector).all_text_contents()]


@pytest.fixture
def visit(browser: Any, tmp_path: Path) -> Iterator[Any]:
    opened: list[Visit] = []

    def go(page: str | bytes, **options: Any) -> Visit:
        path = tmp_path / f"{len(opened)}.html"
        path.write_bytes(page.encode() if isinstance(page, str) else page)
        opened.append(Visit(browser, path, **options))
        return opened[-1]

    yield go
    for one in opened:
        one.close()


def column(at: Visit, key: str) -> list[str]:
    """Visible cells of a column, from above."""
    script = """key => {
      const heads = [...document.querySelectorAll('#token-table th')];
      const head = heads.findIndex(h => h.dataset.key === key);
      return [...document.querySelectorAll('#token-rows tr.type')].filter(r => !r.hidden)
        .map(r => r.cells[head].textContent);
    }"""
    return list(at.page.evaluate(script, key))


def test_sorting(visit: Any) -> None:
    at = visit(render_page(small()))
    header = at.page.locator("th[data-key=frequency]")
    button = header.get_by_role("button")
    button.click()
    assert column(at, "frequency") == ["1,000", "200", "30", "7"]
    assert header.get_attribute("aria-sort") == "descending"
    button.focus()
    at.page.keyboard.press("Enter")
    assert column(at, "frequency") == ["7", "30", "200", "1,000"]
    assert header.get_attribute("aria-sort") == "ascending"
    # What has no number is last either way.
    for _ in range(2):
        at.page.locator("th[data-key=mean_loss] button").click()
        assert column(at, "mean_loss")[-1] == "–"
    at.page.locator("th[data-key=token] button").click()
    assert at.page.locator("th[aria-sort]").count() == 1


def test_search(visit: Any) -> None:
    at = visit(render_page(small()))
    status = at.page.locator("#count")
    assert status.text_content() == "4 of 4 shown"
    for wanted, left in (("so", 1), ("low_power", 1), ("\\n", 1), ("nothing", 0), ("", 4)):
        at.page.fill("#search", wanted)
        assert len(column(at, "token")) == left, wanted
        assert status.text_content() == f"{left} of 4 shown"
    at.page.check("#only-rocks")
    assert len(column(at, "token")) == 2


def row(at: Visit, token: int) -> Any:
    """What a rock's row unfolds."""
    return at.page.locator(f'[id="rock={token}"]')


def level(at: Visit, sequence: int, place: int) -> int:
    """The level of a token's shade, 0 … 15."""
    token = at.page.locator(".sequence").nth(sequence).locator(".tokens > bdi").nth(place)
    names = str(token.get_attribute("class")).split()
    return int(next(n[1:] for n in names if n[0] == "b" and n[1:].isdigit()))


def test_slider_and_scales(visit: Any) -> None:
    at = visit(render_page(small()))
    at.page.locator("#text").scroll_into_view_if_needed()
    assert at.page.locator("#scale").input_value() == "rank"
    at.page.select_option("#scale", "linear")
    assert at.page.locator("#step-value").text_content() == "30"
    late = level(at, 0, 3)
    at.page.locator("#step").focus()
    at.page.keyboard.press("Home")
    assert at.page.locator("#step-value").text_content() == "10"
    assert level(at, 0, 3) > late
    at.page.keyboard.press("ArrowRight")
    assert at.page.locator("#step-value").text_content() == "20"
    linear = [level(at, 0, place) for place in range(4)]
    assert linear == sorted(linear)
    for scale in ("log", "rank"):
        at.page.select_option("#scale", scale)
        assert [level(at, 0, place) for place in range(4)] != linear
    at.page.select_option("#shade", "entropy")
    last = at.page.locator(".sequence").nth(0).locator(".tokens > bdi").nth(3)
    assert "bx" in str(last.get_attribute("class")).split()
    assert "nats" in str(at.page.locator("#scale-high").text_content())


def test_marks_are_no_colours_alone(visit: Any) -> None:
    at = visit(render_page(small()))
    tokens = at.page.locator(".sequence").nth(0).locator(".tokens > bdi")
    classes = [str(tokens.nth(i).get_attribute("class")).split() for i in range(4)]
    assert ["rock" in c for c in classes] == [True, True, False, False]
    assert ["retained" in c for c in classes] == [True, False, False, False]
    assert ["persistent" in c for c in classes] == [False, True, False, False]
    assert "4 tokens not scored" not in "".join(at.texts(".gap"))
    assert "5 tokens not scored" in "".join(at.texts(".gap"))


def test_keyboard_in_the_text(visit: Any) -> None:
    at = visit(render_page(small()))
    first = at.page.locator(".sequence").nth(0).locator(".tokens > bdi")
    first.nth(0).focus()
    tip = at.page.locator("#tip")
    assert tip.is_visible()
    at.page.keyboard.press("ArrowRight")
    said = str(tip.text_content())
    assert "0.667 nats" in said and "40 : 1" in said and "token id1" in said.replace("  ", "")
    at.page.keyboard.press("End")
    assert "40 : 16" in str(tip.text_content())
    assert at.page.evaluate("document.activeElement.place") == 11
    at.page.keyboard.press("Home")
    at.page.keyboard.press("Enter")
    assert "5 occurrences in 2 sequences" in str(at.page.locator("#found-text").text_content())
    at.page.keyboard.press("n")
    assert at.page.evaluate("document.activeElement.place") == 4
    at.page.keyboard.press("p")
    assert at.page.evaluate("document.activeElement.place") == 0
    at.page.keyboard.press("Escape")
    assert not tip.is_visible()
    # One stop of the Tab key for each sequence.
    assert at.page.locator(".sequence").nth(0).locator("[tabindex='0']").count() == 1


def test_from_the_table_to_contexts_to_the_text(visit: Any) -> None:
    at = visit(render_page(small()))
    at.page.locator("#token-rows a").first.click()
    context = row(at, 0)
    assert context.is_visible()
    assert not row(at, 1).is_visible()
    context.locator("a[data-sequence]").click()
    assert at.page.evaluate("document.activeElement.closest('.sequence') !== null")
    assert "41 : 3" in str(at.page.locator("#tip").text_content())
    # A sequence that is not shown is named, not linked.
    assert row(at, 1).locator("a[data-sequence]").count() == 0
    # And back: by the button beside what was found, or by the browser's.
    at.page.locator("#found-row").click()
    assert at.page.evaluate("document.activeElement.dataset.rock") == "0"


def test_hover(visit: Any) -> None:
    at = visit(render_page(small()))
    at.page.locator("#sequences").scroll_into_view_if_needed()
    at.page.locator(".sequence").nth(1).locator(".tokens > bdi").nth(1).hover()
    assert at.page.locator("#tip").is_visible()
    at.page.mouse.move(2, 2)
    assert not at.page.locator("#tip").is_visible()


def test_text_that_means_harm_is_text(visit: Any) -> None:
    at = visit(render_page(harmful()))
    at.page.locator("#text").scroll_into_view_if_needed()
    at.settle()
    for token in range(0, len(HARMFUL), 3):
        at.page.locator(".sequence").nth(0).locator(".tokens > bdi").nth(token).focus()
        at.page.keyboard.press("Enter")
    for select in ("#shade", "#scale"):
        for option in at.page.locator(f"{select} option:not([disabled])").all():
            at.page.select_option(select, str(option.get_attribute("value")))
    assert at.page.evaluate("window.harmed") is None
    assert at.page.locator("svg[onload], [onerror], [onmouseover]").count() == 0
    shown = "".join(at.texts("#token-rows bdi"))
    assert "<img src=x onerror=" in shown and "</script>" in shown
    assert "\\u202e" in shown and "\\ud800" in shown and "\\x1b" in shown
    assert "{{ 7 * 7 }}" in shown


def test_a_whole_report_of_a_harmful_vocabulary(visit: Any, tmp_path: Path) -> None:
    raw = [text.encode("utf-8", "surrogatepass")[:300] for text in HARMFUL]
    vocab = [(i, "?", raw[i] if i < len(raw) else b"=cmd%d" % i) for i in range(50)]
    with LogWriter(tmp_path / "log", run=RUN, vocab=vocab) as writer:
        writer.write(sequence_rows(range(40)), table="sequences")
        for step in (0, 10):
            writer.write(rows(step, range(40)), table="fixed")
            writer.finish_step(step, "fixed")
            writer.flush()
    # Settings under which nearly every type is a rock: all of them are named in the figures.
    found = report(rocktok.open(tmp_path / "log"), replicates=100, lifts=False,
                   tau_pre=0.01, tau_post=0.01, gamma=0.05, eta=0.0)  # fmt: skip
    assert len(found.rocks) == 50
    files = render_report(found, ("png",))
    at = visit(files["report.html"])
    at.page.locator("#text").scroll_into_view_if_needed()
    at.settle()
    assert at.page.evaluate("window.harmed") is None
    drawn = sum(name.startswith("figures/") for name in files)
    drawings = at.page.locator("figure .drawing > svg")
    assert drawings.count() == drawn == 9
    at.page.locator(".appendix > summary").click()
    wide = "svgs => svgs.map(svg => svg.getBBox().width)"
    assert min(drawings.evaluate_all(wide)) > 50
    tokens = files["tables/tokens.csv"].decode()
    assert not any(f"{mark}=cmd" in tokens for mark in (",", '"', "\n"))


@pytest.fixture(scope="module")
def sample_page() -> bytes:
    return sample_files()["report.html"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1200])
def test_the_sample_fits_and_can_be_read(
    visit: Any, sample_page: bytes, scheme: str, width: int
) -> None:
    at = visit(sample_page, color_scheme=scheme)
    at.page.set_viewport_size({"width": width, "height": 900})
    assert at.page.evaluate("document.documentElement.scrollWidth") <= width
    at.page.locator("#text").scroll_into_view_if_needed()
    at.settle()
    # Text on every shade: a contrast of 4.5 or more (WCAG AA).
    contrast = """() => {
      const lum = c => { const [r, g, b] = c.match(/[\\d.]+/g).map(Number).map(v => v / 255)
        .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
      const paint = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
      const rgb = (...colours) => { paint.clearRect(0, 0, 1, 1);
        for (const c of colours) { paint.fillStyle = c; paint.fillRect(0, 0, 1, 1); }
        const d = paint.getImageData(0, 0, 1, 1).data; return `rgb(${d[0]},${d[1]},${d[2]})`; };
      const back = getComputedStyle(document.documentElement).backgroundColor;
      const found = {};
      for (const t of document.querySelectorAll('#sequences .tokens > bdi')) {
        const s = getComputedStyle(t);
        const [a, b] = [lum(rgb(back, s.color)), lum(rgb(back, s.backgroundColor))];
        found[t.className] = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
      }
      return found;
    }"""
    found = at.page.evaluate(contrast)
    assert len(found) > 5
    assert min(found.values()) >= 4.5, min(found.items(), key=lambda item: item[1])


def test_without_javascript(browser: Any, sample_page: bytes, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_bytes(sample_page)
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(path.as_uri())
    assert page.locator("#token-rows tr.type").count() > 100
    assert page.locator("figure .drawing > svg").count() == 15
    # What a rock's row unfolds is there, and its address leads to it.
    assert page.locator(".more .contexts").first.is_visible()
    page.locator(".chip").nth(1).click()
    assert page.locator(":target.more").count() == 1
    assert page.locator("noscript").first.is_visible()
    assert not page.locator("#search").is_visible()
    context.close()


def without(part: str) -> dict[str, Any]:
    """The small page of a log that lacks something."""
    data = small(steps=(10,)) if part == "steps" else small()
    if part == "gradients":
        data["text"]["columns"] = data["text"]["columns"][:1]
    elif part == "vocabulary":
        data["text"]["tokens"] = {}
    elif part == "values":
        data["text"]["columns"] = []
    elif part == "everything":
        return {}
    elif part != "steps":
        data[part] = None
    return data


@pytest.mark.parametrize(
    "part",
    ["steps", "gradients", "vocabulary", "values", "table", "rocks", "text", "everything"],
)
def test_what_a_log_lacks_is_left_out(visit: Any, part: str) -> None:
    at = visit(render_page(without(part)))
    slider = part not in ("steps", "values", "text", "everything")
    assert at.page.locator("#step").count() == slider
    if part == "vocabulary":
        assert at.texts(".tokens > bdi")[:2] == ["<id 0>", "<id 1>"]
    if part not in ("text", "everything"):
        at.page.locator(".tokens > bdi").nth(1).hover()
        assert at.page.locator("#tip").is_visible()
    if part == "text":
        at.page.locator("#token-rows a").first.click()
        assert row(at, 0).is_visible()


def test_play_goes_to_the_last_step(visit: Any) -> None:
    at = visit(render_page(small()))
    at.page.locator("#play").click()
    assert at.page.locator("#step-value").text_content() == "10"
    assert at.page.locator("#play").text_content() == "Pause"
    at.page.locator("#play", has_text="Play").wait_for()
    assert at.page.locator("#step-value").text_content() == "30"
    assert at.page.locator("#step").get_attribute("aria-valuetext") == "step 30, 3 of 3"


def test_up_and_down_go_by_line(visit: Any) -> None:
    at = visit(render_page(small()))
    at.page.locator(".sequence").nth(0).locator(".tokens > bdi").nth(0).focus()
    # A line ends after each "\n", the third type of four.
    for key, place in (("ArrowDown", 3), ("ArrowDown", 7), ("ArrowUp", 3), ("ArrowUp", 0)):
        at.page.keyboard.press(key)
        assert at.page.evaluate("document.activeElement.place") == place


def test_marks_can_be_hidden(visit: Any) -> None:
    at = visit(render_page(small()))
    shadow = "getComputedStyle(document.querySelector('.tokens > .rock')).boxShadow"
    assert at.page.evaluate(shadow) != "none"
    at.page.uncheck("#mark-rock")
    assert at.page.evaluate(shadow) == "none"


def test_long_text_is_shaded_at_once(visit: Any) -> None:
    at = visit(render_page(large()))
    at.page.locator(".sequence").nth(0).scroll_into_view_if_needed()
    at.page.locator(".sequence").nth(0).locator(".tokens > bdi").nth(999).wait_for()
    # Handler, style and layout; the best of many, as other work shares the processor.
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
    # What is far from the window is made when it is scrolled to, with the step of then.
    assert at.page.locator(".tokens > bdi").count() < 20_000
    at.page.locator(".sequence").nth(19).scroll_into_view_if_needed()
    at.page.locator(".sequence").nth(19).locator(".tokens > bdi.t").nth(999).wait_for()


def test_print(visit: Any) -> None:
    data = small({i: f"token {i}" for i in range(60)})
    at = visit(render_page(data))
    at.page.emulate_media(media="print")
    for hidden in ("nav", "#search", "#text", ".help"):
        assert not at.page.locator(hidden).is_visible(), hidden
    rows = at.page.locator("#token-rows tr.type")
    assert sum(rows.nth(i).is_visible() for i in range(60)) == 50
    assert at.page.get_by_text("The first 50 rows of 60").is_visible()
    assert at.page.locator(".lead").first.is_visible()


@pytest.mark.parametrize("motion, behaviour", [("reduce", "auto"), ("no-preference", "smooth")])
def test_motion_is_as_the_reader_wants_it(visit: Any, motion: str, behaviour: str) -> None:
    at = visit(render_page(small()), reduced_motion=motion)
    found = at.page.evaluate("getComputedStyle(document.documentElement).scrollBehavior")
    assert found == behaviour


def test_nothing_of_others_runs_even_if_it_got_in(browser: Any, tmp_path: Path) -> None:
    """The policy is the second line of defence: a script put into the file does not run."""
    page = render_page(small())
    evil = '<script>window.harmed = 1</script><img src=x onerror="window.harmed = 1">'
    path = tmp_path / "page.html"
    path.write_text(page.replace("<main>", f"<main>{evil}"))
    context = browser.new_context()
    opened = context.new_page()
    opened.goto(path.as_uri())
    assert opened.evaluate("window.harmed") is None
    assert opened.locator("#count").text_content() == "4 of 4 shown"
    context.close()
