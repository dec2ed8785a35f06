"""Deformations against known flows, and the anatomy they act on."""

import numpy as np
import pytest
import torch

from bias_tutorial.simulate.anatomy import REGIONS, Grid, region, subject_modes, template
from bias_tutorial.simulate.deformation import (
    compose,
    exponential,
    identity,
    jacobian_determinant,
    refine,
    require_invertible,
    sample,
    warp,
)
from bias_tutorial.simulate.effects import region_field

SMALL, VOLUME = (56, 48), (36, 44, 32)


def smooth_velocity(shape, strength=3.0, count=1, seed=0):
    """Random smooth velocities that vanish at the border, so that nothing flows in or out."""
    rng = np.random.default_rng(seed)
    points = [torch.linspace(0, np.pi, s) for s in shape]
    window = 1.0
    for axis, p in enumerate(points):
        window = window * torch.sin(p).reshape([-1 if k == axis else 1 for k in range(len(shape))])
    waves = []
    for _ in range(count * len(shape)):
        wave = 0.0
        for axis, p in enumerate(points):
            turn = torch.sin(p * rng.uniform(0.5, 2) + rng.uniform(0, 6))
            wave = wave + turn.reshape([-1 if k == axis else 1 for k in range(len(shape))])
        waves.append(wave * window * strength / len(shape))
    return torch.stack(waves).reshape(count, len(shape), *shape)


# ---------------------------------------------------------------------------------------------- deformations
@pytest.mark.parametrize("shape", [(40, 34), (24, 28, 20)])
def test_exponential_of_a_linear_field_is_the_matrix_exponential(shape):
    """A flow v = A (x - c) has the solution x(1) - c = expm(A) (x - c): rotation and scaling, in closed form."""
    dimensions = len(shape)
    matrix = torch.zeros(dimensions, dimensions, dtype=torch.float64)
    matrix[0, 1], matrix[1, 0] = 0.2, -0.2
    matrix += torch.diag(torch.tensor([0.08, -0.06, -0.1][:dimensions], dtype=torch.float64))
    centre = torch.tensor([(s - 1) / 2 for s in shape], dtype=torch.float64).reshape(-1, *(1,) * dimensions)
    offset = identity(shape).double() - centre
    velocity = torch.tensordot(matrix, offset, dims=1).float()[None]
    expected = torch.tensordot(torch.linalg.matrix_exp(matrix) - torch.eye(dimensions), offset, dims=1)
    inner = (slice(None), *(slice(s // 4, -(s // 4)) for s in shape))  # what never meets the border
    assert expected[inner].abs().max() > 1
    error = (exponential(velocity)[0][inner] - expected[inner]).abs().max()
    assert error < 0.02
    assert (exponential(velocity, squarings=1)[0][inner] - expected[inner]).abs().max() > 3 * error


@pytest.mark.parametrize("shape", [(60, 50), (32, 36, 30)])
def test_the_inverse_is_the_exponential_of_minus_v(shape):
    velocity = smooth_velocity(shape)
    there, back = exponential(velocity), exponential(-velocity)
    assert there.norm(dim=1).max() > 1.5
    rest = compose(there, back).norm(dim=1)
    assert rest.mean() < 0.02 and rest.max() < 0.2
    assert compose(there, there).norm(dim=1).mean() > 10 * rest.mean()


def test_compose_means_first_then_the_other():
    shift = torch.zeros(1, 2, 20, 20)
    shift[:, 0] = 2.0  # every point moves two rows on
    slope = torch.zeros(1, 2, 20, 20)
    slope[:, 1] = identity((20, 20))[0]  # and sideways by its row
    assert torch.allclose(compose(shift, slope)[0, :, 5, 5], torch.tensor([2.0, 7.0]))
    assert torch.allclose(compose(slope, shift)[0, :, 5, 5], torch.tensor([2.0, 5.0]))


def test_sampling_agrees_with_scipy_and_knows_its_borders():
    from scipy.ndimage import map_coordinates

    rng = np.random.default_rng(0)
    for shape in ((9, 12), (7, 9, 8)):
        image = rng.random(shape).astype(np.float32)
        where = rng.uniform(-2, 13, (len(shape), 5, *(4,) * (len(shape) - 1))).astype(np.float32)
        got = sample(torch.from_numpy(image)[None, None], torch.from_numpy(where)[None])[0, 0].numpy()
        np.testing.assert_allclose(got, map_coordinates(image, where, order=1, mode="nearest"), atol=2e-5)
        got = sample(torch.from_numpy(image)[None, None], torch.from_numpy(where)[None], "zeros")[0, 0].numpy()
        np.testing.assert_allclose(got, map_coordinates(image, where, order=1, mode="grid-constant"), atol=2e-5)
    moved = warp(torch.from_numpy(image)[None, None], torch.ones(1, 3, *image.shape))
    assert torch.allclose(moved[0, 0, :-1, :-1, :-1], torch.from_numpy(image)[1:, 1:, 1:], atol=1e-5)


def test_refine_is_linear_interpolation_with_the_same_corners():
    lattice = torch.rand(2, 3, 5, 6, 4)
    expected = torch.nn.functional.interpolate(lattice, size=(13, 17, 10), mode="trilinear", align_corners=True)
    assert torch.allclose(refine(lattice, (13, 17, 10)), expected, atol=1e-6)


def test_jacobian_determinant_of_a_linear_map():
    for shape in ((12, 14), (8, 9, 10)):
        d = len(shape)
        matrix = torch.tensor([[0.3, 0.2, 0.1], [-0.1, -0.4, 0.2], [0.0, 0.3, 0.5]])[:d, :d]
        moved = torch.tensordot(matrix, identity(shape), dims=1)[None]
        determinant = torch.linalg.det(torch.eye(d) + matrix)
        assert torch.allclose(jacobian_determinant(moved), determinant, atol=1e-4)


def test_a_fold_is_found_and_the_image_named():
    fold = torch.zeros(2, 2, 20, 20)
    fold[1, 0, 10:12] = -3.0  # two rows jump over their neighbours
    with pytest.raises(ValueError, match=r"twist of image 'b' is not invertible.*-0\.\d+.*above 0"):
        require_invertible(fold, ["a", "b"], "twist")
    require_invertible(fold[:1], ["a"], "twist")
    with pytest.raises(ValueError, match="'a'"):
        require_invertible(fold[:1] * torch.nan, ["a"], "twist")


# ---------------------------------------------------------------------------------------------- anatomy
def test_the_template_is_remade_from_nilearn():
    pytest.importorskip("nilearn")
    import gzip
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nilearn's own, about matplotlib's backend
        from bias_tutorial.assets.make_template import TEMPLATE, make_template

        made = make_template()
    assert gzip.decompress(made) == gzip.decompress(TEMPLATE.read_bytes())  # the packing depends on zlib


def test_slices_and_volumes_show_the_same_anatomy():
    """A region's millimetres point at the same brightness in a slice, a volume and the template itself."""
    shapes = {2: (112, 96), 3: (87, 106, 78)}
    for name in ("left_putamen", "right_thalamus", "left_occipital"):
        seen = []
        for dimensions, shape in shapes.items():
            grid = Grid(shape)
            centre = np.array([*region(name).centre[:2], 5.0])
            at = np.round(grid.index(centre)).astype(int)
            seen.append(template(shape)[tuple(slice(a - 1, a + 2) for a in at)].mean())
            np.testing.assert_allclose(grid.millimetres()[(slice(None), *at)], centre, atol=grid.spacing)
            assert grid.dimensions == dimensions
        assert abs(seen[0] - seen[1]) < 0.05
    for shape in (*shapes.values(), SMALL, VOLUME):
        image = template(shape)
        assert image.min() == 0 and image.max() == 1 and (image > 0.1).mean() > 0.2
        faces = [np.take(image, k, axis=a) for a in range(image.ndim) for k in (0, -1)]
        assert max((face > 0.1).mean() for face in faces) < 0.05  # all of the head but, in a volume, its very tips


def test_left_is_left():
    grid = Grid((112, 96))
    assert grid.index(region("left_putamen").centre)[1] < 47 < grid.index(region("right_putamen").centre)[1]
    assert grid.index(region("left_frontal_pole").centre)[0] < grid.index(region("left_occipital").centre)[0]
    volume = Grid(VOLUME)
    assert volume.index((-30, 0, 0))[0] < volume.index((30, 0, 0))[0]


def test_regions_are_many_lie_in_the_brain_and_unknown_ones_are_listed():
    assert len(REGIONS) >= 6
    volume, grid = template((173, 211, 155)), Grid((173, 211, 155))
    for where in REGIONS.values():
        at = np.round(grid.index(where.centre)).astype(int)
        assert volume[tuple(slice(a - 2, a + 3) for a in at)].mean() > 0.3
    with pytest.raises(ValueError, match="no region 'nose'.*left_caudate.*right_thalamus"):
        region("nose")
    with pytest.raises(ValueError, match="no region 'left_cerebellum' in the slice at z = 5 mm") as error:
        region("left_cerebellum", dimensions=2)
    assert "left_putamen" in str(error.value) and "left_precentral" not in str(error.value)


def test_subject_modes_are_smooth_and_decay():
    points = Grid(VOLUME).millimetres()
    modes = subject_modes(points, 10)
    size = np.sqrt((modes**2).sum(axis=1).mean(axis=(1, 2, 3)))
    assert size[0] > 2 * size[9] > 0.2
    rough = [np.abs(np.diff(m, axis=1)).mean() / np.abs(m).mean() for m in modes]
    assert max(rough) < 0.5 and np.mean(rough[5:]) > np.mean(rough[:5])
    np.testing.assert_array_equal(subject_modes(points, 4), modes[:4])
    fewer = subject_modes(points[:, ::2, ::2, ::2], 3)
    np.testing.assert_allclose(fewer, modes[:3, :, ::2, ::2, ::2], atol=1e-5)


@pytest.mark.parametrize("shape", [(112, 96), (87, 106, 78)])
def test_a_local_field_points_outwards_peaks_at_its_radius_and_ends(shape):
    grid, where = Grid(shape), region("left_putamen")
    field = region_field("left_putamen", grid)
    speed = field.velocity.norm(dim=0).numpy() * field.step * grid.spacing  # mm
    axes = [np.arange(b.start, b.stop) * field.step for b in field.box]
    offset = grid.millimetres(axes) - np.array(where.centre).reshape(3, *(1,) * grid.dimensions)
    distance = np.linalg.norm(offset[:2] if grid.dimensions == 2 else offset, axis=0)
    assert speed.max() == pytest.approx(1.5, rel=0.02)
    assert abs(distance.flat[speed.argmax()] - where.radius) < 2.5
    assert (speed[distance > 3.5 * where.radius + 0.1] == 0).all()
    for axis in range(grid.dimensions):  # the box holds it whole: nothing jumps at its edge
        assert max(np.take(speed, k, axis=axis).max() for k in (0, -1)) < 0.02
    outwards = np.tensordot(grid.directions(), offset, axes=1)
    assert ((field.velocity.numpy() * outwards).sum(axis=0) >= -1e-4).all()


