"""Activations of a block: several passes equal one, little memory, and what is refused."""

import tracemalloc

import numpy as np
import pytest
import torch
from torch import nn

from bias_tutorial.networks import build
from bias_tutorial.probing import Activations, block_names
from bias_tutorial.scenario import preset
from bias_tutorial.simulate import brain


def whole(network, images, block, **settings):
    return np.concatenate(list(Activations(network, images, block, **settings).slices()), axis=1)


def expected(network, images, block):
    """What an ordinary hook sees when all images pass at once."""
    seen = []
    handle = network.get_submodule(block).register_forward_hook(lambda _, __, out: seen.append(out.clone()))
    with torch.no_grad():
        network(images)
    handle.remove()
    return seen[0].reshape(len(images), -1).numpy()


@pytest.mark.parametrize(("architecture", "shape", "block"), [
    ("modern", (1, 28, 24), "block2"), ("modern", (1, 28, 24), "pool"), ("modern", (2, 12, 14, 10), "block1"),
    ("published", (1, 32, 33, 32), "block4"), ("resnet18", (3, 40, 32), "layer2"),
    ("resnet18", (3, 40, 32), "layer1.0.bn1"),  # the next layer changes this one's output in place
])
def test_several_passes_give_what_one_gives(architecture, shape, block):
    network = build(architecture, len(shape) - 1, channels=shape[0], seed=3).eval()
    images = torch.rand(11, *shape, generator=torch.Generator().manual_seed(0))
    once = Activations(network, images, block)
    (one,) = once.slices()
    width = one.shape[1] // 4 - 1
    parts = Activations(network, images, block, memory=4 * 11 * width, batch_size=4)
    several = list(parts.slices())
    assert one.shape == once.shape == parts.shape and one.dtype == np.float32 and one.std() > 0
    assert len(several) == parts.passes == -(-one.shape[1] // width) > 4 > once.passes
    assert all(part.nbytes <= 4 * 11 * width for part in several)
    np.testing.assert_allclose(np.concatenate(several, axis=1), one, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(one, expected(network, images, block), rtol=1e-4, atol=1e-5)


def test_features_are_in_the_order_of_the_block_shape():
    network, images = build("modern").eval(), torch.rand(3, 1, 28, 24)
    activations = Activations(network, images, "block1")
    assert activations.block_shape == (8, 14, 12) and activations.shape == (3, 8 * 14 * 12)
    first = next(activations.slices()).reshape(3, *activations.block_shape)
    with torch.no_grad():
        np.testing.assert_allclose(first, network.block1(images).numpy(), rtol=1e-5, atol=1e-6)


def test_cohort_array_and_tensor_give_the_same():
    cohort = brain(preset("no_bias"), 6, 0, (28, 24))
    network, images = build("modern").eval(), cohort.batch(np.arange(6))
    images.setflags(write=False)  # as a memory map is
    given = [whole(network, kind, "block3") for kind in (cohort, images, torch.tensor(images), images.astype(float))]
    assert all(np.array_equal(given[0], other) for other in given[1:])


def test_memory_does_not_grow_with_the_features():
    images = torch.rand(40, 1, 16, 16)
    peaks = []
    for channels in (64, 256):
        network = nn.Sequential(nn.Conv2d(1, channels, 3, padding=1)).eval()
        activations = Activations(network, images, "0", memory=2**20, batch_size=8)
        tracemalloc.start()
        for part in activations.slices():
            assert part.nbytes <= 2**20
            del part
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert activations.passes == 11 and peaks[1] < 1.1 * peaks[0] < 2 * 2**20


def test_nothing_of_the_network_changes_and_a_pass_ends_at_the_block():
    network, later = build("modern").eval(), []
    handle = network.block4.register_forward_hook(lambda *_: later.append(1))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    activations = Activations(network, torch.rand(5, 1, 28, 24), "block3")
    later.clear()
    part = next(activations.slices())
    handle.remove()
    assert not later
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert not network.block3._forward_hooks and all(p.grad is None for p in network.parameters())
    assert isinstance(part, np.ndarray) and not network.training and torch.is_grad_enabled()


def test_block_names_are_those_of_the_networks():
    assert block_names(build("modern")) == ("block1", "block2", "block3", "block4", "block5", "pool")


# ---------------------------------------------------------------------- bad input
class Twice(nn.Module):
    """A network that calls one block twice, another never, and gives odd outputs."""

    def __init__(self):
        super().__init__()
        self.twice, self.never, self.pair, self.mixed = (nn.Identity() for _ in range(4))
        self.pair.forward = lambda x: (x, x)
        self.mixed.forward = lambda x: x.reshape(-1)

    def forward(self, images):
        self.pair(images)
        self.mixed(images)
        return self.twice(self.twice(images))


IMAGES = torch.rand(4, 1, 20, 20)


def test_an_unknown_block_lists_the_names_there_are_near_ones_first():
    with pytest.raises(ValueError, match=r"CNN has no block 'blok3', expected one of block3.* block1\.0,.*head"):
        Activations(build("modern").eval(), IMAGES, "blok3")
    with pytest.raises(ValueError, match="no block ''"):
        Activations(build("modern").eval(), IMAGES, "")


def test_a_module_in_training_mode_is_named():
    with pytest.raises(ValueError, match=r"'CNN' is in training mode.*network.eval\(\)"):
        Activations(build("modern").train(), IMAGES, "block1")
    network = build("modern").eval()
    network.block2[1].train()
    with pytest.raises(ValueError, match=r"'block2\.1' is in training mode"):
        Activations(network, IMAGES, "block1")


@pytest.mark.parametrize(("block", "says"), [
    ("twice", "called 2 times in a pass through the network, expected 1"), ("never", "called 0 times"),
    ("pair", "gives a tuple, expected one tensor"), ("mixed", r"gives shape \(400,\) for 1 images")])
def test_a_block_must_give_one_tensor_once(block, says):
    network = Twice().eval()
    with pytest.raises(ValueError, match=f"block '{block}' .*{says}"):
        Activations(network, IMAGES, block)
    assert not any(part._forward_hooks for part in network.modules())


def test_values_that_are_not_finite_name_block_and_image():
    cohort = brain(preset("no_bias"), 6, 0, (28, 24))
    network = build("modern").eval()
    with torch.no_grad():
        network.block1[0].weight[2] = torch.nan
    with pytest.raises(ValueError, match=f"block 'block1' gives NaN.* image '{cohort.table['image_id'][0]}'"):
        whole(network, cohort, "block1")
    images = IMAGES.clone()
    images[2, 0, 3, 3] = torch.inf
    network = build("modern").eval()
    with pytest.raises(ValueError, match="block 'block2' gives NaN or infinite values for image in row 2"):
        whole(network, images, "block2", batch_size=2)
    assert not network.block2._forward_hooks


@pytest.mark.parametrize(("change", "says"), [
    ({"images": IMAGES[:0]}, "at least 1 image"), ({"batch_size": 0}, "batch_size of at least 1"),
    ({"memory": 15}, "memory is 15 bytes; one feature of 4 images takes 16")])
def test_no_images_no_batch_and_no_memory_are_refused(change, says):
    with pytest.raises(ValueError, match=says):
        Activations(build("modern").eval(), **{"images": IMAGES, "block": "block1"} | change)
