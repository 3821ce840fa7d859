"""A figure's SVG as a part of the page: its colours are the page's, its points lead to rows.

The file in figures/ stays as it was drawn, for papers. Of it the page leaves out what an HTML
document has no place for (metadata, ids that nothing refers to, styles, which the page's policy
would ignore), and black, white and the darkest colours become the page's own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree

from rocktok.report.page.figures.points import PlacedPoint
from rocktok.report.page.figures.style import FIXED
from rocktok.tables.text import number

#: Points that can be pointed at, at most; rocks are drawn last, and kept first.
MOST = 600

#: Colours that the page has its own of. A variable that it lacks falls back to what was drawn.
_OURS = {
    "#000000": "currentColor",
    "#ffffff": "var(--page)",
    "#0072b2": "var(--figure-blue, #0072b2)",
    "#d55e00": "var(--figure-red, #d55e00)",
    "#bbbbbb": "var(--figure-grey, #bbbbbb)",
}

_XLINK = "{http://www.w3.org/1999/xlink}href"
_SVG = "{http://www.w3.org/2000/svg}"
_LEFT_OUT = {"metadata", "style", "title"}


def inline(svg: str, name: str, points: Sequence[PlacedPoint] = ()) -> str:
    """The SVG of a figure as an element of a page.

    Args:
        svg: as matplotlib writes it.
        name: of the figure: ids begin with it, so that they are the page's only ones.
        points: where types lie: circles that nothing is seen of until they are pointed at.
    """
    root = ElementTree.fromstring(svg)
    prefix = re.sub(r"\W", "-", name) or "figure"
    used = _references(root)
    _clean(root, prefix, used, fixed=False)
    # Glyphs that no colour is said of are black, and so the page's ink.
    root.set("fill", "currentColor")
    root.attrib.pop("version", None)
    # As wide as its place; the view box keeps its proportions.
    root.attrib.pop("width", None)
    root.attrib.pop("height", None)
    root.set("aria-hidden", "true")
    root.set("focusable", "false")
    for point in points[-MOST:]:
        ElementTree.SubElement(root, "circle", {
            "class": "hit", "r": "3.4", "cx": f"{point['x']:g}", "cy": f"{point['y']:g}",
            "data-token": str(point["token_id"]),
            "data-values": "\n".join(f"{label}\t{number(v)}" for label, v in point["values"]),
        })  # fmt: skip
    return re.sub(r">\s+<", "><", ElementTree.tostring(root, encoding="unicode"))


def _references(root: ElementTree.Element) -> set[str]:
    found: set[str] = set()
    for element in root.iter():
        for value in element.attrib.values():
            found.update(re.findall(r"url\(#([^)]+)\)", value))
        target = element.get(_XLINK)
        if target is not None and target.startswith("#"):
            found.add(target[1:])
    return found


def _clean(element: ElementTree.Element, prefix: str, used: set[str], *, fixed: bool) -> None:
    element.tag = element.tag.removeprefix(_SVG)
    name = element.get("id", "")
    fixed = fixed or name.startswith(FIXED)
    attributes: dict[str, str] = {}
    for key, value in element.attrib.items():
        if key == "id":
            if value in used:
                attributes["id"] = f"{prefix}-{value}"
        elif key == _XLINK:
            attributes["href"] = f"#{prefix}-{value[1:]}" if value.startswith("#") else value
        elif key == "style":
            for part in filter(None, map(str.strip, value.split(";"))):
                style, _, said = part.partition(":")
                attributes[style.strip()] = _colour(said.strip(), prefix, fixed=fixed)
        elif not key.startswith("{"):
            attributes[key] = _colour(value, prefix, fixed=fixed)
    if "d" in attributes:
        attributes["d"] = re.sub(r"\s+", " ", attributes["d"]).strip()
    if name.startswith(FIXED):
        attributes.setdefault("fill", "#000000")
    element.attrib.clear()
    element.attrib.update(attributes)
    for child in list(element):
        kept = isinstance(child.tag, str) and child.tag.removeprefix(_SVG) not in _LEFT_OUT
        if kept:
            _clean(child, prefix, used, fixed=fixed)
        else:
            element.remove(child)


def _colour(value: str, prefix: str, *, fixed: bool) -> str:
    value = re.sub(r"url\(#", f"url(#{prefix}-", value)
    return value if fixed else _OURS.get(value.lower(), value)
