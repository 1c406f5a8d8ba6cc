from __future__ import annotations

import re
from xml.etree import ElementTree

from lowcarb_scheduler.report import style
from lowcarb_scheduler.report.figure import Picture, save
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


# -- Texts at marks ----------------------------------------------------------------------------------------


def titles(paint) -> list[str]:
    svg = Picture("made", "Made", "made up", (), 2.0, paint).inline()
    return re.findall(r"<title>(.*?)</title>", svg[: svg.index("</svg>")])


def test_each_mark_of_a_collection_has_its_own_text():
    def paint(figure):
        axes = figure.subplots()
        style.dots(axes, [1, 2, 3], [1, 2, 3], ["one", "two", "three"], style.LINE, 4.0)
        style.tip(axes.hlines([1, 2], [0, 0], [1, 1]), "low", "high")
        style.tip(axes.barh([0], [1])[0], "bar")

    assert sorted(titles(paint)) == ["bar", "high", "low", "one", "three", "two"]


def test_marks_that_are_pixels_have_no_text_and_the_chart_is_drawn():
    def paint(figure):
        style.tip(figure.subplots().hlines([1, 2], [0, 0], [1, 1], rasterized=True), "low", "high")

    assert titles(paint) == []


def test_a_text_is_no_markup_and_has_no_control_characters():
    def paint(figure):
        style.tip(figure.subplots().barh([0], [1])[0], "</title><script>alert(1)</script>\x1b[31m\n\"'&")

    (title,) = titles(paint)
    assert title == "&lt;/title&gt;&lt;script&gt;alert(1)&lt;/script&gt;\\x1b[31m &quot;&#x27;&amp;"


def test_a_file_has_the_texts_too(tmp_path):
    def paint(figure):
        style.tip(figure.subplots().barh([0], [1])[0], "bar")

    save(Picture("made", "Made", "made up", (), 2.0, paint).figure(), tmp_path / "made.svg")
    svg = (tmp_path / "made.svg").read_text(encoding="utf-8")
    assert svg.count("<title>bar</title>") == 1
    assert style.TIPPED not in svg
