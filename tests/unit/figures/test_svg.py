import math
import xml.etree.ElementTree as ElementTree

from hypothesis import given
from hypothesis import strategies as st

from v05ray.figures.sparkline import sparkline
from v05ray.figures.svg import HEIGHT, WIDTH, Bar, Point, Shade, render_bars, render_svg

FINITE = st.floats(-1e6, 1e6)


def test_sparkline_by_hand():
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert sparkline([1, 0]) == "█▁"
    assert sparkline([2, 2]) == "▅▅"
    assert sparkline([0.5], low=0, high=1) == "▅"
    assert sparkline([-1, 2], low=0, high=1) == "▁█"
    assert sparkline([0, math.nan, 1]) == "▁ █"
    assert sparkline([math.nan]) == " "
    assert sparkline([]) == ""
    assert sparkline([0, 0, 1, 1], width=2) == "▁█"


@given(st.lists(FINITE, max_size=200), st.integers(1, 50))
def test_sparkline_has_a_character_per_value_up_to_its_width(values, width):
    assert len(sparkline(values, width=width)) == min(len(values), width)


def elements(svg: str, name: str) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(svg).iter(f"{{http://www.w3.org/2000/svg}}{name}"))


def test_svg_by_hand():
    svg = render_svg(
        {"greedy": [Point(0, 0.0), Point(10, 1.0, 0.1)], "none": []}, title="t", x_label="steps", y_label="accuracy"
    )
    line = elements(svg, "polyline")
    assert len(line) == 1  # the line without points is left out
    left, right = [tuple(map(float, pair.split(","))) for pair in line[0].attrib["points"].split()]
    assert left == (56.0, 316.0)  # the axes' corner: (0, 0)
    assert right[0] == 624.0  # the right edge: the last tick is 10
    assert {text.text for text in elements(svg, "text")} >= {"t", "steps", "accuracy", "greedy", "0", "10", "0.5"}


@given(st.lists(st.builds(Point, FINITE, FINITE, st.floats(0, 1e3)), min_size=1, max_size=20))
def test_every_point_is_inside_the_picture(points):
    svg = render_svg({"a": points}, title="", x_label="", y_label="")
    for circle in elements(svg, "circle"):
        assert -0.1 <= float(circle.attrib["cx"]) <= WIDTH + 0.1
        assert -0.1 <= float(circle.attrib["cy"]) <= HEIGHT + 0.1


def test_intervals_areas_and_the_diagonal_by_hand():
    svg = render_svg(
        {"a": [Point(0.5, 0.5, 0.25, share=0.25)]},
        title="t",
        x_label="x",
        y_label="y",
        errors="interval",
        x_range=(0, 1),
        y_range=(0, 1),
        diagonal=True,
    )
    diagonal, _ = elements(svg, "polyline")
    assert diagonal.attrib["points"] == "56.0,316.0 624.0,40.0"  # corner to corner
    (circle,) = elements(svg, "circle")
    assert [circle.attrib[name] for name in ("cx", "cy", "r")] == ["340.0", "178.0", "8"]  # 2 + 12 sqrt(.25)
    interval = elements(svg, "line")[-1]
    assert [interval.attrib[name] for name in ("y1", "y2")] == ["247.0", "109.0"]  # .25 and .75


def test_errors_are_cut_where_the_axis_ends():
    beyond = {"a": [Point(0, 0.9, 0.5), Point(1, 0.5, 0.9)]}
    svg = render_svg(beyond, title="t", x_label="x", y_label="y", errors="interval", y_range=(0, 1))
    ends = [(line.attrib["y1"], line.attrib["y2"]) for line in elements(svg, "line")[-2:]]
    assert ends == [("205.6", "40.0"), ("316.0", "40.0")]  # .4 to 1 and 0 to 1


def test_a_shaded_range_is_named_and_stays_within_the_axes():
    shade = Shade("asleep", [(-5, 5)])
    svg = render_svg({"a": [Point(0, 0), Point(10, 1)]}, title="t", x_label="x", y_label="y", shade=shade)
    (ground,) = [rect for rect in elements(svg, "rect") if rect.attrib.get("class") == "shade"]
    assert (float(ground.attrib["x"]), float(ground.attrib["width"])) == (56.0, 284.0)
    assert "asleep" in {text.text for text in elements(svg, "text")}


def test_bars_by_hand():
    svg = render_bars([Bar(0, 0.5, 4, "two\nlines")], title="t", x_label="x", y_label="y", x_range=(0, 1))
    (bar,) = [rect for rect in elements(svg, "rect") if rect.attrib.get("class") == "bar"]
    assert (float(bar.attrib["x"]), float(bar.attrib["width"])) == (57.0, 282.0)
    assert float(bar.attrib["height"]) == 220.8  # 4 of the 5 that the axis ends at, of 276 pixels
    assert [text.text for text in elements(svg, "text") if text.text in ("two", "lines")] == ["lines", "two"]
    empty = render_bars([], title="t", x_label="x", y_label="y", x_range=(0, 1))
    assert "no values yet" in empty
