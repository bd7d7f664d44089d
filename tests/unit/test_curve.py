import math
import xml.etree.ElementTree as ElementTree

from hypothesis import given
from hypothesis import strategies as st

from v05ray.curve import HEIGHT, WIDTH, Point, render_svg, sparkline

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
