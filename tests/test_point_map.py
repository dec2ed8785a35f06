"""The explorer for maps of points, as Python makes it."""

import ast
import base64
import io
import json
import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bias_tutorial import explore
from bias_tutorial.explore import point_map
from bias_tutorial.point_map import SHAPES, STEPS

# Six points: a wide map, and the same one turned by a right angle.
WIDE = np.array([[0, 0], [4, 0], [8, 0], [0, 2], [4, 2], [8, 2]], dtype=np.float32)
MAPS = {5: WIDE, 30.0: WIDE[:, ::-1] * [-1, 1]}
COLOURS = pd.DataFrame({
    "site": pd.Categorical(["B", "A", "A", "B", "B", "B"], categories=["B", "A", "never"]),
    "age": [40.0, 41, 46.5, 50, 53.999, 54], "lesions": np.array([0, 7, 2, 3, 1200, 1], dtype=np.int16),
    "disease": [True, False, True, False, False, True]})
IMAGES = np.random.default_rng(0).random((6, 3, 5))


def _make(**changes):
    return point_map(**{"title": "Map", "maps": MAPS, "colours": COLOURS, "images": IMAGES} | changes)


def _data(output):
    return json.loads(re.search(r'<script type="application/json">(.*?)</script>', output.html(), re.S).group(1))


def _still(output):
    return re.sub(r"<script.*?</script>", "", output.html(), flags=re.S)


def test_maps_are_drawn_upwards_to_one_scale_as_large_as_fits():
    wide, turned = _data(_make())["maps"]
    # 412 of 440 units for a span of 8; 103 units for 2, around the centre at 220, 200.
    assert wide == [[14, 251.5], [220, 251.5], [426, 251.5], [14, 148.5], [220, 148.5], [426, 148.5]]
    # 372 of 400 units for a span of 8; x falls by 2, which is 93 units.
    assert turned == [[266.5, 386], [266.5, 200], [266.5, 14], [173.5, 386], [173.5, 200], [173.5, 14]]


def test_values_of_a_point_equal_pythons():
    data = _data(_make())
    for row, told in zip(COLOURS.itertuples(index=False), data["values"], strict=True):
        assert [ast.literal_eval(exact) for _, exact in told] == list(row)
        assert [exact for _, exact in told] == [repr(v.item() if isinstance(v, np.generic) else v) for v in row]
    assert data["values"][4] == [["B", "'B'"], ["53.999", "53.999"], ["1,200", "1200"], ["False", "False"]]
    some = _data(_make(describe=["age"]))
    assert some["names"] == ["age"] and some["values"][0] == [["40.000", "40.0"]]
    assert [a["name"] for a in some["attributes"]] == list(COLOURS)


def test_classes_differ_by_shape_and_keep_the_order_of_categories():
    site, _, _, disease = _data(_make())["attributes"]
    assert site["of"] == [0, 1, 1, 0, 0, 0] and [look[0] for look in site["looks"]] == list(SHAPES[:2])
    assert re.findall(r"</svg> (.*?)</li>", site["legend"]) == ["B (4)", "A (2)"]
    assert site["words"] == "coloured by site: B 4, A 2"
    assert disease["of"] == [1, 0, 1, 0, 0, 1]
    eight = _data(_make(maps={k: np.random.default_rng(1).random((8, 2)) for k in "ab"}, images=np.ones((8, 2, 2)),
                        colours=pd.DataFrame({"kind": list("hgfedcba")})))["attributes"][0]
    assert len(set(SHAPES)) == len({tuple(look) for look in eight["looks"]}) == 8
    assert eight["of"] == [7, 6, 5, 4, 3, 2, 1, 0]


def test_numbers_grow_in_equal_steps_and_the_ends_are_named():
    age, lesions = _data(_make())["attributes"][1:3]
    assert age["of"] == [0, 0, 3, 5, 6, 6]  # steps of two years
    assert re.sub(r"<svg.*</svg>", "...", age["legend"]) == "<li>40.000 ... 54.000</li>"
    assert age["legend"].count("<svg") == len(age["looks"]) == STEPS
    sizes = [float(path[2:].split()[0]) for path, _ in age["looks"]]
    assert sizes == sorted(set(sizes)) and lesions["words"] == "coloured by lesions, from 0 to 1,200"


@pytest.mark.parametrize("page", [[255] * 3, [18] * 3])
def test_every_mark_can_be_seen_on_light_and_dark(page):
    def luminance(rgb):
        c = np.array(rgb) / 255
        return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]

    for attribute in _data(_make())["attributes"]:
        for _, colour in attribute["looks"]:
            pair = sorted([luminance(page), luminance(list(bytes.fromhex(colour[1:])))])
            assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 3  # WCAG 2.2, 1.4.11


def test_the_sheet_holds_every_image_in_eight_bits():
    data = _data(_make())
    kind, text = data["sheet"].split(",")
    sheet = Image.open(io.BytesIO(base64.b64decode(text)))
    assert kind == "data:image/png;base64" and sheet.mode == "L" and sheet.size == (15, 6) and data["columns"] == 3
    pixels = np.asarray(sheet)
    for k, image in enumerate(IMAGES):
        row, column = divmod(k, 3)
        part = pixels[3 * row:3 * row + 3, 5 * column:5 * column + 5]
        assert np.array_equal(part, np.round(image * 255))


def test_the_start_stands_in_the_page_itself_and_in_words():
    output = _make(start=5)
    still = _still(output)
    words = "6 points at perplexity = 5, coloured by site: B 4, A 2"
    assert f'role="img" aria-label="{words}"' in still and "B (4)" in still
    assert "A still view at perplexity = 5, coloured by site." in still
    places = re.findall(r'<path transform="translate\(([\d.]+) ([\d.]+)\)" d="([^"]+)"', still)
    assert [[float(x), float(y)] for x, y, _ in places] == _data(output)["maps"][0]
    assert [SHAPES.index(d) for _, _, d in places] == [0, 1, 1, 0, 0, 0]
    assert repr(output) == f"Map. {words}. In the page, each point shows its image."
    assert output._repr_mimebundle_()["text/plain"] == repr(output)
    assert "perplexity = 30, coloured" in repr(_make())  # the middle of two is the second


def test_three_hundred_images_fit_and_nothing_comes_from_elsewhere():
    rng, n = np.random.default_rng(0), 300
    maps = {p: rng.normal(size=(n, 2)) for p in (5, 15, 30, 50, 100)}
    page = point_map("Map", maps, pd.DataFrame({"site": list("ABC") * 100}), rng.random((n, 32, 32))).html()
    assert len(page.encode()) < 600_000
    assert not re.findall(r"https?:|(?:src|href)=", page) and " id=" not in page


def test_text_from_outside_is_escaped():
    evil = '</script><script>alert("x")</script>'
    page = _make(title=evil, by=evil, colours=pd.DataFrame({evil: [evil, "b"] * 3})).html()
    assert page.count("<script") == page.count("</script>") == 2
    assert evil not in _data(_make(colours=pd.DataFrame({"a": [evil, "b"] * 3})))["attributes"][0]["legend"]


@pytest.mark.parametrize("changes, message", [
    ({"images": IMAGES[:5]}, r"images have shape \(5, 3, 5\), expected \(6, h, w\)"),
    ({"images": IMAGES[0]}, r"images have shape \(3, 5\), expected \(6, h, w\)"),
    ({"images": IMAGES * 255}, r"image 0 goes from .* expected grey values in \[0, 1\]"),
    ({"images": np.where(np.arange(6)[:, None, None] == 4, np.nan, IMAGES)}, "image 4 goes from nan"),
    ({"maps": {5: WIDE}}, "control 'perplexity' needs at least two"),
    ({"maps": {5: WIDE, 30: WIDE[:4]}}, r"perplexity = 30 has shape \(4, 2\), expected \(6, 2\)"),
    ({"maps": {5: WIDE, 30: np.where(WIDE == 8, np.inf, WIDE)}}, "perplexity = 30 needs finite points"),
    ({"maps": {5: WIDE * 0, 30: WIDE}}, "perplexity = 5 needs finite points that are not all the same"),
    ({"start": 7}, "start perplexity=7 is none of"),
    ({"colours": COLOURS[:5]}, r"images have shape \(6, 3, 5\), expected \(5, h, w\) as colours have 5 rows"),
    ({"colours": COLOURS[:0]}, "attribute 'site' has one value for all 0 points"),
    ({"colours": COLOURS.assign(sex="m")}, "attribute 'sex' has one value for all 6 points"),
    ({"colours": COLOURS.assign(one=1.5)}, "attribute 'one' has one value"),
    ({"colours": COLOURS.assign(sex=["m", None] * 3)}, "attribute 'sex' is missing or not finite at some of 6"),
    ({"colours": COLOURS.assign(dose=[1, np.inf] * 3)}, "attribute 'dose' is missing or not finite"),
    ({"describe": ["age", "weight"]}, r"describe names \['weight'\], expected columns of colours: \['site'"),
    ({"describe": []}, "describe names nothing"),
])
def test_bad_input_is_named(changes, message):
    with pytest.raises(ValueError, match="explorer 'Map'.*" + message):
        _make(**changes)


def test_nine_classes_are_too_many():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="attribute 'site' has 9 classes, at most 8 can be told apart"):
        point_map("Map", {p: rng.random((9, 2)) for p in (5, 30)}, pd.DataFrame({"site": list("abcdefghi")}),
                  rng.random((9, 2, 2)))


def test_a_page_that_is_too_heavy_is_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=f"map 'Map' weighs .* bytes, at most {explore.MOST_BYTES:,} fit a page"):
        _make(images=rng.random((6, 500, 500)))
