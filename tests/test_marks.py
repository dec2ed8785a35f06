"""Annotation marks: lengths by hand, text that says the longest axis, and nothing else of the image touched."""

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy.spatial.distance import pdist

from bias_tutorial.simulate.marks import (
    BLUE,
    RED,
    _font,
    apply_marks,
    choose_marks,
    draw_marks,
    length_text,
    longest_axis,
)

KINDS = np.repeat(["meningioma", "glioma", "pituitary"], 40)


def box(shape, rows, columns):
    mask = np.zeros(shape, dtype=bool)
    mask[rows, columns] = True
    return mask


def scan(shape=(96, 96), seed=0):
    return np.random.default_rng(seed).uniform(0, 1, shape).astype(np.float32)


# ---------------------------------------------------------------------------------------------- the length
def test_longest_axis_by_hand():
    mask = box((50, 60), slice(10, 41), slice(5, 46))  # 30 rows and 40 columns between the centres of its corners
    start, end, length = longest_axis(mask, 2.0)
    assert length == 100.0  # the 3-4-5 triangle, twice 50 mm
    assert {start, end} in ({(10, 5), (40, 45)}, {(10, 45), (40, 5)})
    assert longest_axis(box((9, 9), 4, slice(2, 7)), 0.5) == ((4, 2), (4, 6), 2.0)
    assert longest_axis(box((9, 9), slice(1, 8), 4), 10.0) == ((1, 4), (7, 4), 60.0)
    assert longest_axis(box((9, 9), 3, 3), 1.0) == ((3, 3), (3, 3), 0.0)


@pytest.mark.parametrize("seed", range(5))
def test_longest_axis_agrees_with_all_pairs_of_pixels(seed):
    mask = np.random.default_rng(seed).uniform(size=(30, 25)) > 0.97
    mask[12:15, 10:13] = True
    assert longest_axis(mask, 0.7)[2] == pytest.approx(0.7 * pdist(np.argwhere(mask)).max())


def test_length_text_is_in_centimetres():
    assert [length_text(v) for v in (32.4, 32.6, 0.0, 100.0)] == ["3.2 cm", "3.3 cm", "0.0 cm", "10.0 cm"]


def ink(text, size):
    layer = Image.new("L", (12 * size, 3 * size))
    ImageDraw.Draw(layer).text((size, size), text, fill=255, font=_font(size))
    return np.asarray(layer.crop(layer.getbbox()), dtype=np.float32) / 255


@pytest.mark.parametrize("shape", [(96, 96), (128, 112), (512, 512)])
@pytest.mark.parametrize("mark", ["line", "outline"])
def test_the_text_on_the_image_says_the_longest_axis_of_the_mask(shape, mark):
    """Found again in the drawn image among all lengths that could stand there."""
    mask = box(shape, slice(30, 61), slice(20, 61))  # 50 pixels long
    spacing = 36.0 / 50
    drawn = draw_marks(np.zeros(shape), mask, spacing, **{mark: True})
    channel = drawn[0 if mark == "line" else 2] / (RED[0] if mark == "line" else BLUE[2])
    channel[28:63, 18:63] = 0  # the lesion, with room for the width of a line
    rows, columns = np.flatnonzero(channel.any(axis=1)), np.flatnonzero(channel.any(axis=0))
    written = channel[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1]
    matching = []
    for tenths in range(1, 100):
        text = ink(f"{tenths / 10:.1f} cm", max(10, shape[0] // 20))
        matching += [tenths] * (text.shape == written.shape and bool(np.allclose(text, written, atol=1e-6)))
    assert matching == [36]


# ---------------------------------------------------------------------------------------------- the marks
def test_the_line_by_hand():
    """A row of 25 pixels: dashes of equal length, both ends drawn, red, and only on that row."""
    mask = box((96, 96), 40, slice(10, 35))
    drawn = draw_marks(np.zeros((96, 96)), mask, 2.0, line=True)
    on = drawn[0, 40, 10:35] == 1
    assert on[0] and on[-1] and not on.all()
    pieces = np.diff(np.concatenate([[0], on.astype(int), [0]]))
    lengths = np.flatnonzero(pieces == -1) - np.flatnonzero(pieces == 1)
    assert len(lengths) >= 4 and lengths.max() - lengths.min() <= 1
    assert (drawn[:, 40, 10:35][:, on] == np.array(RED)[:, None]).all()
    assert not drawn[:, 38:43, 5:10].any() and not drawn[:, :30].any() and not drawn[1:].any()


def test_the_outline_is_the_inner_border():
    mask = box((96, 96), slice(20, 30), slice(50, 70))
    drawn = draw_marks(np.full((96, 96), 0.5), mask, 2.0, outline=True)
    border = mask.copy()
    border[21:29, 51:69] = False
    np.testing.assert_allclose(drawn[:, border], np.tile(np.array(BLUE)[:, None], (1, border.sum())), atol=1e-6)
    assert (drawn[:, 21:29, 51:69] == 0.5).all()


@pytest.mark.parametrize("corner", [(0, 0), (0, 80), (80, 0), (80, 80), (40, 40)])
def test_the_text_stays_in_the_image_and_off_the_lesion(corner):
    mask = box((96, 96), slice(corner[0], corner[0] + 16), slice(corner[1], corner[1] + 16))
    for mark in ("line", "outline"):
        drawn = draw_marks(np.zeros((96, 96)), mask, 2.0, **{mark: True}).sum(axis=0)
        whole = draw_marks(np.zeros((96, 96)), box((96, 96), slice(40, 56), slice(40, 56)), 2.0, **{mark: True}).sum(0)
        assert drawn[~mask].sum() == pytest.approx(whole.sum() - whole[40:56, 40:56].sum())


def test_everything_else_keeps_its_bits():
    image, mask = scan(), box((96, 96), slice(30, 50), slice(40, 60))
    before = image.copy()
    plain = draw_marks(image, mask, 2.0)
    assert plain.shape == (3, 96, 96) and plain.dtype == np.float32
    assert (plain == image).all()
    line, outline, both = (draw_marks(image, mask, 2.0, *which) for which in ((1, 0), (0, 1), (1, 1)))
    on_line, on_outline = ((drawn != plain).any(axis=0) for drawn in (line, outline))
    assert 30 < on_line.sum() < 400 and 60 < on_outline.sum() < 400
    rest = ~(on_line | on_outline)
    np.testing.assert_array_equal(both[:, rest], plain[:, rest])
    np.testing.assert_array_equal(both[:, on_line & ~on_outline], line[:, on_line & ~on_outline])
    np.testing.assert_array_equal(draw_marks(plain, mask, 2.0, line=True), line)  # of grey and of RGB the same
    np.testing.assert_array_equal(draw_marks(image[None], mask, 2.0, line=True), line)
    np.testing.assert_array_equal(image, before)


# ---------------------------------------------------------------------------------------------- who carries one
@pytest.mark.parametrize(("rho", "gamma"), [(0, 0), (0.5, 0), (0.7, 0.3), (0.95, 1), (1, 1)])
def test_the_share_of_marked_images_is_the_one_asked_for(rho, gamma):
    marks = choose_marks(KINDS, rho, gamma, 3)
    assert marks["glioma_mark"].sum() == round(40 * rho) and marks["pituitary_mark"].sum() == round(40 * gamma)
    assert (KINDS[marks["glioma_mark"] == 1] == "glioma").all()
    assert (KINDS[marks["pituitary_mark"] == 1] == "pituitary").all()
    assert choose_marks(KINDS, rho, gamma, 3).equals(marks)


def test_a_larger_share_marks_the_same_images_and_more():
    few, many, other = (choose_marks(KINDS, rho, 0.5, seed) for rho, seed in ((0.3, 1), (0.8, 1), (0.3, 2)))
    assert (many["glioma_mark"] >= few["glioma_mark"]).all()
    assert (many["pituitary_mark"] == few["pituitary_mark"]).all()
    assert not few.equals(other)


def test_only_the_named_splits_are_marked():
    splits = np.tile(["train", "train", "validation", "test"], 30)
    marks = choose_marks(KINDS, 0.6, 0.2, 0, splits)
    for split, n in (("train", 20), ("validation", 10), ("test", 0)):
        here = marks[splits == split].sum()
        assert (here["glioma_mark"], here["pituitary_mark"]) == (round(0.6 * n), round(0.2 * n))
    train = choose_marks(KINDS, 0.6, 0.2, 0, splits, marked_splits=("train",))
    assert train[splits != "train"].to_numpy().sum() == 0
    assert train[splits == "train"].equals(marks[splits == "train"])


def test_apply_marks_draws_what_it_chose():
    masks = np.stack([box((64, 64), slice(20, 30 + k % 7), slice(20, 40)) for k in range(120)])
    images = np.stack([scan((64, 64), k) for k in range(120)])
    drawn, marks = apply_marks(images, masks, KINDS, 0.5, 0.25, 7, spacing=3.0)
    assert drawn.shape == (120, 3, 64, 64) and marks.equals(choose_marks(KINDS, 0.5, 0.25, 7))
    changed = (drawn != images[:, None]).any(axis=(1, 2, 3))
    np.testing.assert_array_equal(changed, marks.sum(axis=1) == 1)
    k = int(np.flatnonzero(marks["pituitary_mark"])[0])
    np.testing.assert_array_equal(drawn[k], draw_marks(images[k], masks[k], 3.0, outline=True))


# ---------------------------------------------------------------------------------------------- refusals
@pytest.mark.parametrize(("rho", "gamma", "message"), [
    (1.2, 0, r"rho is the probability of a mark and must lie in \[0, 1\], got 1.2"),
    (0, -0.1, r"gamma is the probability of a mark and must lie in \[0, 1\], got -0.1"),
    (float("nan"), 0, "rho .* got nan")])
def test_shares_outside_0_1_are_refused(rho, gamma, message):
    with pytest.raises(ValueError, match=message):
        choose_marks(KINDS, rho, gamma, 0)


def test_other_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"gamma=0.5, but split 'train' has no image of kind 'pituitary'"):
        choose_marks(["glioma", "glioma"], 0.5, 0.5, 0)
    with pytest.raises(ValueError, match=r"at least one pixel, got shape \(8, 8\) with 0"):
        longest_axis(np.zeros((8, 8)), 1.0)
    with pytest.raises(ValueError, match="spacing must be above 0 mm and finite, got 0"):
        longest_axis(np.ones((8, 8)), 0)
    with pytest.raises(ValueError, match=r"the mask has shape \(8, 9\), the image \(8, 8\)"):
        draw_marks(np.zeros((8, 8)), np.ones((8, 9)), 1.0, line=True)
    with pytest.raises(ValueError, match=r"an image must have shape .*, got \(2, 8, 8\)"):
        draw_marks(np.zeros((2, 8, 8)), np.ones((8, 8)), 1.0)
