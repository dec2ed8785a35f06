"""Architectures by name: shapes, blocks, first weights, and what is refused."""

import numpy as np
import pytest
import torch
from torch import nn

from bias_tutorial import networks
from bias_tutorial.networks import CNN, block_names, build, embedding_mlp

OURS = ("block1", "block2", "block3", "block4", "block5", "pool")
RESNET = ("layer1", "layer2", "layer3", "layer4", "avgpool")


def weights(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(("dimensions", "shape", "sizes"), [
    (2, (28, 24), [(14, 12), (7, 6), (4, 3), (2, 2), (1, 1)]),
    (3, (20, 24, 18), [(10, 12, 9), (5, 6, 5), (3, 3, 3), (2, 2, 2), (1, 1, 1)]),
])
def test_a_hook_on_each_named_block_sees_its_features(dimensions, shape, sizes):
    network, seen = build("modern", dimensions, seed=1).eval(), {}
    assert block_names(network) == OURS
    for name in block_names(network):
        getattr(network, name).register_forward_hook(lambda _, __, out, name=name: seen.update({name: out.shape}))
    scores = network(torch.zeros(2, 1, *shape))
    assert scores.shape == (2, 2)
    filters = networks.FILTERS["modern"]
    assert [tuple(s) for s in seen.values()] == [(2, f, *size) for f, size in zip(filters, sizes, strict=True)] + [
        (2, filters[-1])]


@pytest.mark.parametrize(("dimensions", "channels", "classes"), [(2, 1, 2), (2, 3, 3), (3, 2, 4)])
def test_channels_and_classes_are_those_asked_for(dimensions, channels, classes):
    network = build("modern", dimensions, channels, classes)
    assert network(torch.zeros(3, channels, *[20] * dimensions)).shape == (3, classes)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_the_published_form_pools_by_maximum_and_has_its_filters(dimensions):
    network = build("published", dimensions).eval()
    kinds = [[type(layer).__name__ for layer in getattr(network, name)] for name in OURS[:5]]
    d = f"{dimensions}d"
    assert kinds == [[f"Conv{d}", f"BatchNorm{d}", "Sigmoid", f"MaxPool{d}"]] * 5
    convolutions = [getattr(network, name)[0] for name in OURS[:5]]
    assert [c.out_channels for c in convolutions] == [32, 64, 128, 256, 512]
    assert all(set(c.stride) == {1} and set(c.kernel_size) == {3} for c in convolutions)
    assert network.head.in_features == 512 and network.dropout.p == 0.2
    assert network(torch.zeros(1, 1, *[32] * dimensions)).shape == (1, 2)


def test_the_modern_form_strides_and_is_small():
    network = build("modern")
    assert [type(layer).__name__ for layer in network.block1] == ["Conv2d", "BatchNorm2d", "ReLU"]
    assert network.block1[0].stride == (2, 2)
    size = {name: sum(p.numel() for p in build(name).parameters()) for name in networks.FILTERS}
    assert size["modern"] < 70_000 and size["published"] > 1_500_000


def test_dropout_works_in_training_only():
    network, images = build("modern", seed=0), torch.rand(4, 1, 28, 24)
    network.train()
    assert not torch.equal(network(images), network(images))
    network.eval()
    assert torch.equal(network(images), network(images))


@pytest.mark.parametrize("channels", [1, 3])
def test_resnet_takes_any_channels_and_classes(channels):
    network = build("resnet18", channels=channels, classes=3).eval()
    assert network(torch.zeros(2, channels, 40, 32)).shape == (2, 3)
    assert block_names(network) == RESNET and network.conv1.in_channels == channels


@pytest.mark.parametrize("architecture", networks.ARCHITECTURES)
def test_a_seed_gives_the_same_weights_and_leaves_torchs_state(architecture):
    torch.manual_seed(11)
    before = torch.random.get_rng_state()
    first = weights(build(architecture, seed=4))
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(5)  # another global state
    np.random.seed(3)
    assert same(weights(build(architecture, seed=4)), first)
    other = weights(build(architecture, seed=5))
    drawn = [name for name, value in first.items() if name.endswith("weight") and value.ndim >= 2]
    assert drawn and not any(torch.equal(first[name], other[name]) for name in drawn)  # resnet's first layer too


def test_what_cannot_be_built_is_refused_by_name():
    with pytest.raises(ValueError, match="unknown architecture 'vgg', expected one of modern, published, resnet18"):
        build("vgg")
    with pytest.raises(ValueError, match="ResNet-18 takes slices only; use 'modern' or 'published' for volumes"):
        build("resnet18", dimensions=3)
    for dimensions in (1, 4):
        with pytest.raises(ValueError, match=f"dimensions must be 2 .* or 3 .*, got {dimensions}"):
            build("modern", dimensions)


def test_own_filters_and_activation():
    network = CNN((4, 6), activation=nn.ELU, strided=False, dropout=0.0)
    assert block_names(network) == ("block1", "block2", "pool") and network.head.in_features == 6
    assert network(torch.zeros(2, 1, 9, 9)).shape == (2, 2)


def test_a_network_without_blocks_is_told_what_it_has():
    with pytest.raises(ValueError, match=r"Sequential has no children called block or layer; it has \['0', '1'\]"):
        block_names(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)))
    with pytest.raises(ValueError, match=r"Linear has no children called block or layer; it has \[\]"):
        block_names(nn.Linear(4, 2))


def test_the_published_network_for_embeddings():
    state = torch.random.get_rng_state()
    network = embedding_mlp(seed=3).eval()
    assert [(m.in_features, m.out_features) for m in network.modules() if isinstance(m, nn.Linear)] == [
        (1376, 512), (512, 256), (256, 14)]
    assert block_names(network) == ("block1", "block2")
    assert [type(layer).__name__ for layer in network.block2] == ["Linear", "ReLU", "Dropout"]
    assert network.block1[2].p == network.block2[2].p == 0.3
    assert network(torch.zeros(2, 1376)).shape == (2, 14)
    assert same(weights(network), weights(embedding_mlp(seed=3)))
    assert not same(weights(network), weights(embedding_mlp(seed=4)))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert embedding_mlp(128, 3).eval()(torch.zeros(1, 128)).shape == (1, 3)
