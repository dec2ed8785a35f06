"""The few architectures of the course, with named blocks."""

from __future__ import annotations

import torch
from torch import nn

FILTERS = {"modern": (8, 16, 32, 64, 64), "published": (32, 64, 128, 256, 512)}
ARCHITECTURES = (*FILTERS, "resnet18")
_CONV = {2: nn.Conv2d, 3: nn.Conv3d}
_NORM = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_MAX_POOL = {2: nn.MaxPool2d, 3: nn.MaxPool3d}


class CNN(nn.Module):
    """Five convolutional blocks, a mean over the positions, dropout, one linear layer.

    The blocks are the children ``block1`` to ``block5``, the mean is ``pool``, the linear layer ``head``, so that a
    forward hook can be put on each by name.

    Parameters
    ----------
    filters : tuple of int
        Channels that each block gives.
    dimensions : {2, 3}
        Of the images: slices or volumes.
    channels, classes : int
        Channels of the images; values of the target.
    activation : type of torch.nn.Module
        Between the layers.
    strided : bool
        Halve the size by the convolution's stride; ``False``: by max pooling after the activation, which computes
        every convolution at the full size first.
    dropout : float
        Share of the pooled features dropped in training.

    Notes
    -----
    Form after the network of Stanley et al. (eBioMedicine 2025) and its code, github.com/estanley16/bias_encoding.
    """

    def __init__(self, filters: tuple[int, ...] = FILTERS["modern"], dimensions: int = 2, channels: int = 1,
                 classes: int = 2, activation: type[nn.Module] = nn.ReLU, strided: bool = True, dropout: float = 0.2):
        super().__init__()
        if dimensions not in _CONV:
            raise ValueError(f"dimensions must be 2 (slices) or 3 (volumes), got {dimensions}")
        for number, (before, after) in enumerate(zip((channels, *filters), filters, strict=False), start=1):
            layers = [_CONV[dimensions](before, after, 3, stride=2 if strided else 1, padding=1, bias=False),
                      _NORM[dimensions](after), activation()]
            if not strided:
                layers.append(_MAX_POOL[dimensions](2))
            self.add_module(f"block{number}", nn.Sequential(*layers))
        self.pool = nn.Sequential((nn.AdaptiveAvgPool2d if dimensions == 2 else nn.AdaptiveAvgPool3d)(1), nn.Flatten())
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(filters[-1], classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Scores (logits), shape ``(n, classes)``, of images ``(n, channels, *shape)``."""
        features = images
        for name in block_names(self)[:-1]:
            features = getattr(self, name)(features)
        return self.head(self.dropout(self.pool(features)))


class MLP(nn.Module):
    """Fully connected layers with ReLU and dropout over a vector of features: ``block1``, ``block2``, ..., ``head``.

    Parameters
    ----------
    features : int
        Length of an input vector.
    widths : tuple of int
        Outputs of each block.
    scores : int
        Outputs of the last layer.
    dropout : float
        Share of a block's outputs dropped in training.
    """

    def __init__(self, features: int, widths: tuple[int, ...], scores: int, dropout: float = 0.3):
        super().__init__()
        for number, (before, after) in enumerate(zip((features, *widths), widths, strict=False), start=1):
            layers = nn.Linear(before, after), nn.ReLU(), nn.Dropout(dropout)
            self.add_module(f"block{number}", nn.Sequential(*layers))
        self.head = nn.Linear(widths[-1], scores)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Scores (logits), shape ``(n, scores)``, of vectors ``(n, features)``."""
        for name in block_names(self):
            features = getattr(self, name)(features)
        return self.head(features)


def embedding_mlp(features: int = 1376, findings: int = 14, seed: int = 0) -> MLP:
    """The network of BiasCXR for embeddings of chest radiographs: 512 and 256 units, ReLU, dropout .3.

    Form as described in Ahmadnejad Roudsari 2025; its code, github.com/aahmadnejad/BiasCXR, adds batch norm and feeds
    the demographics in, which is not done here.

    Parameters
    ----------
    features, findings : int
        Length of an embedding; findings, one score each.
    seed : int
        Of the first weights; torch's own random state is left as it was.
    """
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        return MLP(features, (512, 256), findings)


def build(architecture: str = "modern", dimensions: int = 2, channels: int = 1, classes: int = 2,
          seed: int = 0) -> nn.Module:
    """Make a network by name.

    Parameters
    ----------
    architecture : {'modern', 'published', 'resnet18'}
        ``modern``: strided convolutions, ReLU, 8 to 64 filters. ``published``: max pooling, sigmoid, 32 to 512
        filters, as in Stanley et al. 2025. ``resnet18``: torchvision's, from random weights, 2-D only.
    dimensions, channels, classes
        As for :class:`CNN`.
    seed : int
        Of the first weights; torch's own random state is left as it was.

    Raises
    ------
    ValueError
        For an unknown name, or a 3-D ResNet.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(f"unknown architecture '{architecture}', expected one of {', '.join(ARCHITECTURES)}")
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):  # manual_seed sets those of every card
        torch.manual_seed(seed)
        if architecture == "published":
            return CNN(FILTERS["published"], dimensions, channels, classes, nn.Sigmoid, strided=False)
        if architecture == "modern":
            return CNN(FILTERS["modern"], dimensions, channels, classes)
        if dimensions != 2:
            raise ValueError("torchvision's ResNet-18 takes slices only; use 'modern' or 'published' for volumes")
        from torchvision.models import resnet18  # after torch's mend, and only where it is asked for

        network = resnet18(num_classes=classes)
        network.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
        return network


def block_names(network: nn.Module) -> tuple[str, ...]:
    """Names of a network's blocks, from the image to the features before the last layer.

    ``block1`` ... ``pool`` for ours, ``layer1`` ... ``avgpool`` for a ResNet.

    Raises
    ------
    ValueError
        For a network with neither; name its layers yourself.
    """
    children = [name for name, _ in network.named_children()]
    names = tuple(n for n in children if n.startswith(("block", "layer")) or n in ("pool", "avgpool"))
    if not names:
        raise ValueError(f"{type(network).__name__} has no children called block or layer; it has {children}")
    return names
