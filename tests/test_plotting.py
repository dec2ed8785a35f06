"""The style, the text of every figure, and the SVG that reaches the page."""

import base64
import doctest
import io
import itertools
import re
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure as Canvas
from PIL import Image

from bias_tutorial import pictures, plotting

RNG = np.random.default_rng(0)
SLICE = RNG.random((40, 34))
MASK = np.zeros((40, 34), bool)
MASK[10:15, 5:9] = True
FIELD = np.zeros((2, 40, 34))
FIELD[0, 20, 12] = 2.5
TABLE = pd.DataFrame({"1": [0.52, 0.9], "pool": [0.61, 0.7]})
BALANCE = pd.DataFrame({"latent": ["severity", "severity", "subject_1"], "smd": [0.01, -0.09, 0.02]})


def _figures():
    s = plotting.Series
    x = [0.5, 0.7, 0.9]
    return {
        "lines": plotting.lines([s("key", x, [0.841, 0.861, 0.93]), s("wanted", x, [0.841] * 3),
                                 s("measured", x, [0.83, 0.85, 0.9], [0.82] * 3, [0.91] * 3, points=True)],
                                "p", "accuracy", mark=0.7),
        "love": plotting.love_plot({"stratified": BALANCE}, 0.05),
        "histograms": plotting.histograms({"a": [0.0, 1.0], "b": [2.0, 4.0]}, "severity", mark=0.5),
        "dots": plotting.dots({"far, aligned": (0.86, 0.84, 0.88), "far, conflicting": (0.78, 0.75, 0.81)},
                              {"rewarded": {"far, aligned": 0.923}, "wanted": {"far, conflicting": 0.841}}, "accuracy"),
        "grid": pictures.image_grid([SLICE, SLICE], ["off", "on"], [None, SLICE - 0.5]),
        "legend": plotting.lines([s("sick", x, [0.0, 1.0, 0.0]), s("healthy", x, [0.5, 0.1, 0.0])], "score", "density",
                                 legend=True),
        "heatmaps": pictures.heatmaps({"AUC for disease": TABLE, "AUC for mark": 1 - TABLE}, "block", "component",
                                      0, 1),
        "regions": pictures.regions(SLICE, {"left_putamen": MASK}),
        "displacement": pictures.displacement(SLICE, FIELD, step=1),
    }


FIGURES = _figures()


def _luminance(colour):
    channels = np.array([int(colour[i:i + 2], 16) for i in (1, 3, 5)]) / 255
    return float(np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
                 @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("colour", plotting.PALETTE)
@pytest.mark.parametrize("page", ["#ffffff", "#121212"])
def test_every_colour_can_be_seen_on_light_and_dark(colour, page):
    high, low = sorted((_luminance(colour), _luminance(page)), reverse=True)
    assert (high + 0.05) / (low + 0.05) >= 3  # WCAG 2.2, 1.4.11


# Full loss of one cone type: Machado, Oliveira and Fernandes, IEEE TVCG 2009, severity 1.
VISION = {
    "full": np.eye(3),
    "protanopia": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                            [-0.003882, -0.048116, 1.051998]]),
    "deuteranopia": np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                              [-0.011820, 0.042940, 0.968881]]),
    "tritanopia": np.array([[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                            [0.004733, 0.691367, 0.303900]]),
}


def _lab(colour, vision):
    channels = np.array([int(colour[i:i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    xyz = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750],
                    [0.0193339, 0.1191920, 0.9503041]]) @ np.clip(vision @ linear, 0, 1) / [0.95047, 1, 1.08883]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("vision", VISION)
def test_colours_differ_for_every_kind_of_colour_vision(vision):
    for one, other in itertools.combinations(plotting.PALETTE, 2):
        assert np.linalg.norm(_lab(one, VISION[vision]) - _lab(other, VISION[vision])) >= 10, (one, other)


def test_lines_differ_by_dash_and_marker_too():
    n = len(plotting.PALETTE)
    assert len(set(plotting.DASHES)) == len(set(plotting.MARKERS)) == n


@pytest.mark.parametrize("name", FIGURES)
def test_svg_fits_a_page(name):
    svg = FIGURES[name].svg()
    root = ElementTree.fromstring(svg)
    assert root.get("role") == "img" and root.get("aria-label") == FIGURES[name].alt
    assert "width:100%" in root.get("style") and "height:auto" in root.get("style")
    assert plotting.INK not in svg and "font-family: " not in svg and "<!--" not in svg
    tags = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert not tags & {"style", "metadata", "script"}
    assert re.findall(r'(?:https?:)?//[^"]+', svg) == ["http://www.w3.org/2000/svg"]
    ids = [e.get("id") for e in root.iter() if e.get("id")]
    used = set(re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', svg))
    assert len(ids) == len(set(ids)) and {a or b for a, b in used} == set(ids)


@pytest.mark.parametrize("name", FIGURES)
def test_text_stays_text_and_can_be_read_on_a_phone(name):
    assert FIGURES[name].phone_text >= 9
    words = " ".join(re.findall(r"<text[^>]*>([^<]*)</text>", FIGURES[name].svg()))
    expected = {"lines": "accuracy", "love": "severity", "histograms": "density", "grid": "off", "regions": "putamen",
                "displacement": "", "dots": "conflicting", "legend": "healthy", "heatmaps": "component"}[name]
    assert expected in words


def test_figures_have_no_id_in_common_and_are_drawn_alike_again():
    ids = [set(re.findall(r' id="([^"]+)"', f.svg())) for f in FIGURES.values()]
    assert sum(map(len, ids)) == len(set.union(*ids)) > 0
    assert {name: f.svg() for name, f in _figures().items()} == {name: f.svg() for name, f in FIGURES.items()}


def test_text_reaches_notebook_and_page():
    bundle = FIGURES["lines"]._repr_mimebundle_()
    assert bundle["text/plain"] == FIGURES["lines"].alt == repr(FIGURES["lines"])
    assert bundle["text/html"].startswith('<figure class="bt-figure"')


@pytest.mark.parametrize("name, numbers", [
    ("lines", ["0.861 at 0.7", "0.850 (interval 0.820 to 0.910) at 0.7", "Marked at 0.7"]),
    ("love", ["largest 0.090 (severity)", "1 of 2 latents above 0.05"]),
    ("histograms", ["a: n = 2, mean 0.50, standard deviation 0.71", "b: n = 2, mean 3.00"]),
    ("dots", ["far, aligned: 0.860 (interval 0.840 to 0.880), rewarded 0.923;", "0.810), wanted 0.841."]),
    ("grid", [f"off: mean grey {SLICE.mean():.3f}", f"to {(SLICE - 0.5).max():.3f}"]),
    ("legend", ["sick: 0.000 at 0.5, 1.000 at 0.7", "healthy: 0.500 at 0.5"]),
    ("heatmaps", ["AUC for disease: block 1: 0.52, 0.90; block pool: 0.61, 0.70", "AUC for mark: block 1: 0.48, 0.10"]),
    ("regions", ["1 left putamen: 20 pixels around row 12, column 6"]),
    ("displacement", ["2.50 pixels, at row 20, column 12", "0% of points"]),
])
def test_text_gives_the_numbers(name, numbers):
    for wanted in numbers:
        assert wanted in FIGURES[name].alt


@pytest.mark.parametrize("alt", ["", "   ", "too short", None])
def test_a_figure_without_text_is_refused(alt):
    with plotting.style():
        canvas = Canvas()
    with pytest.raises(ValueError, match="says what it shows"):
        plotting.Figure(canvas, alt)


def test_text_is_escaped():
    with plotting.style():
        canvas = Canvas()
        canvas.add_subplot(title="a < b & c")
    svg = plotting.Figure(canvas, 'A picture called <script>"x"</script> & more').svg()
    assert "<script" not in svg
    assert ElementTree.fromstring(svg).get("aria-label") == 'A picture called <script>"x"</script> & more'


def test_embedded_greys_are_one_byte_a_pixel():
    image = np.arange(12 * 12).reshape(12, 12) / 143
    svg = pictures.image_grid([image], ["ramp"]).svg()
    data = re.search(r"base64,([^\"]+)", svg).group(1)
    back = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
    assert back.dtype == np.uint8 and back.shape == image.shape
    assert np.abs(back / 255 - image).max() < 2 / 255  # matplotlib's own rounding to 256 greys


def test_displacement_can_show_only_the_part_that_moves():
    svg = pictures.displacement(SLICE, FIELD, step=1, margin=3).svg()  # one moving pixel: 7 x 7 are shown
    width, height = map(float, re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg).groups())
    assert height / width == pytest.approx(0.62)


def test_pyplot_holds_no_figure_afterwards_and_settings_do_not_leak():
    import matplotlib
    matplotlib.use("agg")
    import matplotlib.pyplot as plt
    before = dict(matplotlib.rcParams)
    with plotting.style():
        figure = plt.figure()
    plotting.Figure(figure, "An empty figure made with pyplot.")
    assert plt.get_fignums() == []
    assert dict(matplotlib.rcParams) == before


def test_negative_numbers_have_a_minus_sign():
    assert plotting.number(-0.25, 2) == "−0.25" and plotting.number(-0.0004) == "0.000"
    assert doctest.testmod(plotting).failed == 0


@pytest.mark.parametrize("make, message", [
    (lambda: plotting.lines([], "p", "y"), "1 to 5 series, got 0"),
    (lambda: plotting.lines([plotting.Series("a", [1, 2], [1])], "p", "y"), "series 'a': x and y need the same length"),
    (lambda: plotting.histograms({"a": []}, "x"), "group 'a' needs at least one value"),
    (lambda: plotting.histograms({"a": [np.nan]}, "x"), "only finite"),
    (lambda: plotting.love_plot({"t": pd.DataFrame({"latent": ["a"]})}), "balance table 't' needs rows"),
    (lambda: plotting.dots({}, {}, "x"), "at least one row"),
    (lambda: plotting.dots({"a": (1, 0, 2)}, {"key": {"b": 1}}, "x"), "reference 'key' names the row 'b'"),
    (lambda: pictures.image_grid([np.full((2, 2), np.nan)], ["bad"]), "image 'bad' needs shape"),
    (lambda: pictures.image_grid([SLICE], ["a"], [MASK[:3]]), "difference of 'a' has shape"),
    (lambda: pictures.heatmaps({"a": TABLE, "b": TABLE.T}, "x", "y", 0, 1), "same rows and columns"),
    (lambda: pictures.regions(SLICE, {"empty": MASK & False}), "region 'empty' needs a mask"),
    (lambda: pictures.displacement(SLICE, FIELD[:1]), "field needs shape"),
])
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_figures_keep_pixels_only_where_they_are_to_be_printed():
    def figure():
        return plotting.lines([plotting.Series("a line", [0, 1], [0, 1])], "x", "y")

    assert figure().png is None
    with plotting.printed(100):
        shown = figure()
    size = Image.open(io.BytesIO(shown.png)).size
    assert shown.png[:4] == b"\x89PNG" and size[0] > size[1] > 100
    assert figure().png is None and shown.svg() == figure().svg()
