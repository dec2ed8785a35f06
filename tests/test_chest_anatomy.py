"""The simulated thorax, measured on its masks and images: sizes in cited ranges, findings where they belong."""

import sys

import numpy as np
import pytest

from bias_tutorial.simulate import ChestDesign, chest, counterfactual
from bias_tutorial.simulate.chest_anatomy import FIELD_MM, Projection, ball, rise, tube
from bias_tutorial.simulate.chest_exposure import _collimate, _write_marker, expose
from bias_tutorial.simulate.chest_subjects import FINDINGS, RANGES
from bias_tutorial.simulate.chest_views import attenuation

regions = sys.modules["bias_tutorial.simulate.chest"].regions
SIZE = 128
MM = 400 / SIZE
STILL = {"raised_mm": 0.0, "offset_x_mm": 0.0, "offset_z_mm": 0.0, "rotation_deg": 0.0}
FAINT = {f"{finding}_severity": -2.5 for finding in FINDINGS}


@pytest.fixture(scope="module")
def normal():
    """Standard PA films of bodies without findings."""
    return chest(ChestDesign({}, view={"PA": 1.0}, split_shares=(1, 0, 0)), 16, 900, (SIZE, SIZE), noise=0)


@pytest.fixture(scope="module")
def shown(normal):
    return regions(normal)


def width(masks):
    """Greatest extent of each mask across, in mm."""
    columns = masks.any(axis=1)
    return (columns.shape[1] - columns[:, ::-1].argmax(axis=1) - columns.argmax(axis=1)) * MM


def top(masks):
    """Height of each mask's highest pixel, in mm from the lower edge."""
    return (masks.shape[1] - masks.any(axis=2).argmax(axis=1)) * MM


def across(masks, axis=2):
    """Centre of gravity of each mask, in pixels."""
    places = np.arange(masks.shape[axis])
    return (masks.sum(axis=3 - axis) * places).sum(axis=1) / masks.sum(axis=(1, 2))


# ---------------------------------------------------------------------------------------------- the body
def test_heart_and_thorax_measure_what_the_latents_say(normal, shown):
    thorax = width(shown["thorax"])
    np.testing.assert_allclose(thorax, normal.table["thorax_mm"], atol=2 * MM)
    ratio = width(shown["heart"] & shown["thorax"]) / thorax
    np.testing.assert_allclose(ratio, normal.table["ctr"], atol=0.03)
    assert ratio.mean() == pytest.approx(0.459, abs=0.02) and (ratio < 0.56).all()  # Mensah 2015
    enlarged = regions(counterfactual(normal, cardiomegaly=1), ["heart", "thorax"])
    assert (width(enlarged["heart"] & enlarged["thorax"]) / width(enlarged["thorax"])).mean() > 0.5  # Danzer 1919


def test_an_ap_film_magnifies_the_heart_as_published(normal):
    """Chon et al. 2011: diameter on a PA film over that on an AP film at 100 cm, in the same breath: .889."""
    pa, ap = (counterfactual(normal, view=view, **STILL) for view in ("PA", "AP"))
    pa, ap = (regions(films, ["heart", "thorax", "clavicles", "diaphragm"]) for films in (pa, ap))
    ratio = width(pa["heart"]) / width(ap["heart"])
    assert ratio.mean() == pytest.approx(0.889, abs=0.025)
    thorax = width(pa["thorax"]) / width(ap["thorax"])
    assert (thorax > ratio).all()  # the heart more than the thorax: the ratio of the two grows
    assert (across(ap["clavicles"], 1) < across(pa["clavicles"], 1) - 4).all()  # higher on an AP film
    breath = counterfactual(normal, view="AP").table["raised_mm"] - normal.table["raised_mm"]
    np.testing.assert_allclose(breath, 13)


def test_scapulae_lie_over_the_lungs_on_an_ap_film_alone(normal):
    films = {view: counterfactual(normal, view=view, bone=1.5, **STILL) for view in ("PA", "AP")}
    lower = {view: counterfactual(films[view], bone=0.5) for view in films}
    extra = {view: (films[view].images - lower[view].images)[:, 0] for view in films}  # what bone adds
    lung = {view: regions(films[view], ["lung_left"])["lung_left"] for view in films}
    columns = np.arange(SIZE)
    share = {}
    for view in films:
        right = lung[view].shape[2] - lung[view].any(axis=1)[:, ::-1].argmax(axis=1)
        band = (columns[None] < right[:, None]) & (columns[None] > right[:, None] - 60 / MM)
        rows = slice(int(60 / MM), int(170 / MM))
        share[view] = np.array([e[rows][:, b].mean() for e, b in zip(extra[view], band, strict=True)])
    assert (share["AP"] > share["PA"]).mean() > 0.9


def test_lungs_are_of_a_size_that_people_have(normal):
    pa = counterfactual(normal, **STILL)
    side = regions(counterfactual(pa, view="lateral"), ["lung_right", "lung_left"])
    front = regions(pa, ["lung_right", "lung_left", "diaphragm", "thorax"])
    areas = [m.sum(axis=(1, 2)) * MM**2 / 100 for m in (front["lung_right"], front["lung_left"],
                                                       side["lung_right"] | side["lung_left"])]
    film = 1.06  # both measures were made without the film's magnification
    formula = 9.6 * sum(areas) / film**2 - 1367  # Acta Radiol 2016
    air = [attenuation(row, [0.0] * 12, (SIZE, SIZE))[1] for row in pa.table.to_dict("records")]
    volume = np.array([(p["lung_right"] + p["lung_left"]).sum() for p in air]) * MM**2 / 1000 / film**3
    assert np.corrcoef(volume, formula)[0, 1] > 0.9
    assert (volume / formula).mean() == pytest.approx(0.75, abs=0.12)  # our lungs are a quarter too thin for theirs
    assert ((volume > 2500) & (volume < 8500)).all()  # ml
    sexes = (pa.table["sex"] == "M").to_numpy()
    assert volume[sexes].mean() > volume[~sexes].mean() + 700


def test_the_right_dome_stands_higher_and_apex_to_dome_is_the_latent(normal):
    pa = counterfactual(normal, **STILL)
    found = regions(pa, ["diaphragm", "lung_right", "lung_left"])
    half = np.arange(SIZE) < SIZE // 2
    right, left = top(found["diaphragm"] & half), top(found["diaphragm"] & ~half)
    np.testing.assert_allclose(right - left, pa.table["dome_step_mm"], atol=2 * MM)
    np.testing.assert_allclose(top(found["lung_right"]) - right, pa.table["lung_mm"], atol=3 * MM)
    span = top(found["lung_right"]) - right
    assert (span > 160).all() and (span < 300).all()  # West Afr J Med 2007


def test_eight_to_ten_posterior_ribs_stand_above_the_diaphragm(normal):
    films = chest(ChestDesign({}, view={"PA": 1.0}, split_shares=(1, 0, 0)), 10, 900, (256, 256), noise=0)
    films = counterfactual(films, offset_x_mm=0, offset_z_mm=0, rotation_deg=0)
    found = regions(films, ["posterior_ribs", "diaphragm"])
    counted = []
    for ribs, dome, thorax in zip(found["posterior_ribs"], found["diaphragm"], films.table["thorax_mm"], strict=True):
        column = int((200 - thorax / 4) / 400 * 256)  # mid-clavicular, on the right
        rows = np.flatnonzero(np.diff(ribs[:, column].astype(int)) == 1)
        counted.append((rows < np.flatnonzero(dome[:, column])[0]).sum())
    counted = np.array(counted)
    assert np.abs(counted - films.table["posterior_ribs"]).max() <= 1
    assert np.abs(counted - films.table["posterior_ribs"]).mean() < 0.5
    assert ((counted >= 8) & (counted <= 11)).all() and 9 <= np.median(counted) <= 10
    lying = counterfactual(normal, view="AP")
    assert lying.table["posterior_ribs"].mean() < normal.table["posterior_ribs"].mean()


def test_films_hang_as_radiologists_hang_them(normal, shown):
    film = normal.images[:, 0]
    middle = across(shown["thorax"])
    assert (across(shown["heart"]) > middle + 2).all()  # the heart is on the right of the image
    level = [film[k][shown[name][k]].mean() for name in ("lung_right", "heart") for k in range(len(film))]
    lung, heart = np.array(level).reshape(2, -1)
    below = film[:, int(0.90 * SIZE):int(0.95 * SIZE), int(0.4 * SIZE):int(0.6 * SIZE)].mean(axis=(1, 2))
    assert (lung + 0.2 < heart).all() and (heart < below + 0.15).all()  # air dark, soft tissue bright
    left, right = (counterfactual(normal, marker=marker).images[:, 0] for marker in ("L", "R"))
    assert (across(left - right > 0.3) > SIZE * 3 / 4).all() and (across(right - left > 0.3) < SIZE / 4).all()
    side = counterfactual(normal, view="lateral")
    assert (across(regions(side, ["heart"])["heart"]) < SIZE / 2 - 2).all()  # the front is on the left


def test_every_size_shows_the_same_film(normal):
    small = chest(ChestDesign({}, view={"PA": 1.0}, split_shares=(1, 0, 0)), 16, 900, (64, 64), noise=0)
    halved = normal.images[:, 0].reshape(-1, 64, 2, 64, 2).mean(axis=(2, 4))
    for one, other in zip(small.images[:, 0], halved, strict=True):
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.97


# ---------------------------------------------------------------------------------------------- findings
@pytest.mark.parametrize("view", ["PA", "AP", "lateral"])
@pytest.mark.parametrize("finding", FINDINGS)
def test_a_finding_shows_the_more_the_more_severe_it_is(finding, view):
    films = chest(ChestDesign({}, view={view: 1.0}), 10, 901, noise=0)
    steps = [counterfactual(films, **{**FAINT, f"{finding}_severity": float(d)}).images for d in (-3, -2, -1, 0, 1, 2)]
    change = np.array([np.abs(step - steps[0]).mean(axis=(1, 2, 3)) for step in steps])
    rising = np.diff(change, axis=0) > 0
    assert (change[-1] > change[2]).all() and rising.mean() > 0.9
    assert (change[1] > 0).mean() > 0.8  # below the mean of those without the finding, too


def test_each_finding_lies_where_it_belongs(normal):
    films = counterfactual(normal, **FAINT)
    for side in (-1, 1):
        severe = counterfactual(films, **STILL, **{f"{f}_side": side for f in FINDINGS[1:]}, effusion_severity=1.5,
                                pneumothorax_severity=1.5, consolidation_severity=1.5, nodule_severity=1.5)
        found = regions(severe)
        ours = (np.arange(SIZE) >= SIZE // 2) == (side == 1)
        lung = found["lung_left" if side == 1 else "lung_right"]
        for finding in ("consolidation", "nodule", "pneumothorax"):
            assert ((found[finding] & ours).sum(axis=(1, 2)) >= 0.8 * found[finding].sum(axis=(1, 2))).all()
        assert (found["nodule"] & ~found["thorax"]).sum() < 0.05 * found["nodule"].sum()
        diameter = np.sqrt(found["nodule"].sum(axis=(1, 2)) * 4 / np.pi) * MM
        np.testing.assert_allclose(diameter, severe.table["nodule_mm"], atol=1.2 * MM)
        # Free air stands at the top and at the ribs, free fluid at the bottom.
        free, fluid = found["pneumothorax"], found["effusion"] & ours
        assert (across(free, 1) < across(lung, 1)).all()
        assert (np.abs(across(free) - SIZE / 2) > np.abs(across(lung) - SIZE / 2)).all()
        assert (across(fluid, 1) > across(lung, 1)).all()
        depth = severe.table["dome_mm"] - 0.85 * severe.table["dome_step_mm"] * (side == 1)
        angle = top(found["diaphragm"] & ours) - depth
        np.testing.assert_allclose(top(fluid) - angle, severe.table["effusion_mm"], atol=4 * MM)
        assert (fluid & ours).sum() > (found["effusion"] & ~ours).sum() > 0  # less fluid on the other side


def test_a_pneumothorax_darkens_the_rim_and_a_consolidation_whitens_the_lung(normal):
    films = counterfactual(normal, **FAINT)
    for finding, sign in (("pneumothorax", -1), ("consolidation", 1), ("nodule", 1), ("effusion", 1)):
        severe = counterfactual(films, **{f"{finding}_severity": 2.0})
        where = regions(severe, [finding])[finding] & regions(films, ["lung_left", "lung_right"])["lung_left"]
        has = where.sum(axis=(1, 2)) > 12
        assert has.any()
        change = (severe.images - films.images)[:, 0]
        assert all(sign * change[k][where[k]].mean() > 0 for k in np.flatnonzero(has))


# ---------------------------------------------------------------------------------------------- physics by hand
def test_chords_and_borders_by_hand():
    assert tube(np.array([0.0, 3.0, 5.0, 6.0]), 5.0) == pytest.approx([10, 8, 0, 0])
    assert ball(np.array([0.0, 3.0]), np.array([0.0, 0.0]), (5.0, 5.0, 10.0)) == pytest.approx([20, 16])
    assert rise(np.array([-2.0, 0.0, 2.0]), 2.0) == pytest.approx([0, 0.5, 1])


def test_magnification_by_hand(normal):
    row = normal.table.iloc[0].to_dict()
    half = row["depth_mm"] / 2 + row["wall_mm"] + 15
    for view, distance, sign in (("PA", 1800, -1), ("AP", 1000, 1)):
        film = Projection({**row, "view": view}, (64, 64))
        for y in (0.0, 40.0):
            expected = (1 - half / 1800) / (1 - (half + sign * y) / distance)
            assert film.magnification(y) == pytest.approx(expected)
    assert Projection(row, (64, 64)).magnification(0.0) == pytest.approx(1)


def test_a_film_gets_darker_with_less_in_the_way_and_noisier_with_more():
    row = chest(ChestDesign({}), 10, 0).table.iloc[0].to_dict() | {"site": "A", "marker": "L", "collimation_x_mm": 30.0,
                                                                 "collimation_z_mm": 0.0, "exposure": 0.0}
    thin, thick = (expose(np.full((64, 64), value, np.float32), row, 0.0, None) for value in (1.5, 4.0))
    assert thin[32, 32] < 0.4 < 0.6 < thick[32, 32]
    assert (thick[:, :3] == 0).all() and (thick[20:, 10:54] > 0).all()  # the collimator's leaves keep all off
    grain = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    step = np.full((64, 64), 2.0, np.float32)
    step[32:] = 3.4
    image, clean = expose(step, row, 0.05, grain), expose(step, row, 0.0, None)
    odds = np.log(image[:, 10:40] / (1 - image[:, 10:40])) - np.log(clean[:, 10:40] / (1 - clean[:, 10:40]))
    assert odds[45:].std() > 1.5 * odds[25:30].std()


@pytest.mark.parametrize("size", [32, 64, 128, 256])
@pytest.mark.parametrize(("marker", "inwards"), [("L", -1), ("R", 1)])
def test_a_marker_moves_by_fractions_of_a_pixel_and_stays_whole(size, marker, inwards):
    pixel = FIELD_MM / size

    def written(x, z):
        """Ink on a clear film, and its centre: row and column."""
        film = np.zeros((size, size))
        _write_marker(film, {"marker": marker, "marker_x_mm": x, "marker_z_mm": z}, pixel)
        return film.sum(), np.array([film.sum(1) @ np.arange(size), film.sum(0) @ np.arange(size)]) / film.sum()

    ink, still = written(0, 0)
    assert ink > 3
    for part in (0.3, 0.5, 1.0, 1.7):  # up and inwards
        moved_ink, moved = written(inwards * part * pixel, part * pixel)
        np.testing.assert_allclose(moved - still, [-part, inwards * part], atol=1e-3)
        assert moved_ink == pytest.approx(ink, rel=1e-5)
    for x in RANGES["marker_x_mm"]:
        for z in RANGES["marker_z_mm"]:
            assert written(x, z)[0] == pytest.approx(ink, rel=1e-5)


@pytest.mark.parametrize("size", [32, 48, 64])
def test_a_leaf_in_the_middle_of_a_pixel_leaves_half_its_light(size):
    pixel = 400 / size
    for edge, rows in ((1.5, [0, 0.5, 1]), (2.0, [0, 0, 1]), (0.25, [0.75, 1, 1]), (0.0, [1, 1, 1])):
        film = np.ones((size, size), np.float32)
        _collimate(film, {"collimation_z_mm": edge * pixel, "collimation_x_mm": 0.5 * pixel}, pixel)
        np.testing.assert_allclose(film[:3, size // 2], rows, atol=1e-6)
        np.testing.assert_allclose(film[:-4:-1, size // 2], rows, atol=1e-6)
        assert (film[3:-3, 1:-1] == 1).all()
        np.testing.assert_allclose(film[3:-3, [0, -1]], 0.5, atol=1e-6)
