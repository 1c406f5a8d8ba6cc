from __future__ import annotations

import re
from xml.etree import ElementTree

from lowcarb_scheduler.report.figure import Picture
from lowcarb_scheduler.report.style import BOX, INK, LINE, clean, short_name
from support.figures import texts

NAME = "<b>&amp; $x$ #1b1b1b fill: #1b1b1b"


def paint(figure):
    axes = figure.subplots()
    axes.bar([0, 1], [1, 2], color=[LINE, BOX])
    axes.set_xticks([0], labels=[short_name(NAME, 99)], color=INK)
    clean(axes)


def picture(name="bars") -> Picture:
    return Picture(name, f"A {NAME}", "made up", ("blue: one", f"white: {NAME}"), 2, paint)


def elements(shown: str):
    return [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", shown, re.DOTALL)]


def test_a_picture_is_inlined_wide_and_narrow_as_well_formed_svg():
    wide, narrow = elements(picture().inline())
    assert (wide.get("class"), narrow.get("class")) == ("wide", "narrow")
    sizes = [float(one.get("viewBox").split()[2]) for one in (wide, narrow)]
    assert sizes[0] > 2 * sizes[1]
    assert NAME in wide.get("aria-label")


def test_text_stays_text():
    for one in elements(picture().inline()):
        assert NAME in ["".join(text.itertext()) for text in one.iter("{http://www.w3.org/2000/svg}text")]
        assert not list(one.iter("b"))
        assert not list(one.iter("{http://www.w3.org/2000/svg}style"))  # it would be the whole page's


def test_colours_are_variables_of_the_page_except_on_heat_maps():
    shown = picture().inline()
    assert "fill: var(--accent)" in shown
    assert "fill: var(--ink)" in shown
    assert f"fill: {BOX}" in shown
    assert f"fill: {LINE}" not in shown


def test_ids_are_unique_and_references_resolve():
    shown = picture("one").inline() + picture("two").inline()
    names = re.findall(r' id="([^"]*)"', shown)
    assert len(names) == len(set(names))
    assert set(re.findall(r'(?:url\(#|href="#)([^")]*)', shown)) <= set(names)


def test_a_file_has_heading_and_caption():
    figure = picture().figure()
    figure.canvas.draw()
    shown = texts(figure)
    assert f"A {NAME}".replace("$", r"\$") in " ".join(shown)
    assert "made up" in shown
    assert picture().caption == f"Blue: one. White: {NAME}. Made up."
