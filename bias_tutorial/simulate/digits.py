"""Coloured digits: real handwriting whose colour gives the digit away in training, and says nothing in the test.

The protocol is that of Kim et al., Learning Not to Learn (CVPR 2019, section 4.1): ten mean colours, one for each
digit; an image gets a colour drawn around the mean colour of its digit; in the test the mean colour is any of the ten.
The smaller the variance, the surer colour alone gives the digit away. Published variances: .020 to .050 by .005. The
mean colours are neither in the paper nor in its code (github.com/feidfoe/learning-not-to-learn); ours are our own
choice, so compare order and shape with the published table, never values.

Two sources. ``'sklearn'``: the 1,797 digits of 8 x 8 pixels that come with scikit-learn (the test part of the UCI set
"Optical Recognition of Handwritten Digits"), enlarged; no network. They were written by 13 people, and nobody knows
which image is whose: every split has digits of the same hand, which flatters every accuracy, though not one colour
over another. ``'mnist'``: 70,000 digits of 28 x 28 pixels, through torchvision.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pandas as pd
from PIL import Image
from sklearn.datasets import load_digits

from ..cohort import Cohort, Schema, split_by_patient
from ..scenario import streams, whole

SOURCES = ("sklearn", "mnist")
VARIANCES = (0.020, 0.025, 0.030, 0.035, 0.040, 0.045, 0.050)
# No two closer than .44, none so dark that a digit could not be seen.
MEAN_COLOURS = np.array([[0.90, 0.05, 0.10], [0.10, 0.55, 0.10], [0.10, 0.20, 0.95], [0.95, 0.95, 0.10],
                         [0.90, 0.15, 0.90], [0.10, 0.95, 0.95], [0.95, 0.50, 0.10], [0.45, 0.10, 0.50],
                         [0.40, 0.95, 0.40], [0.95, 0.70, 0.70]])
BINS, IGNORED = 8, 255
_CHANNELS = ("red", "green", "blue")


def digits(variance: float, seed: int, source: str = "sklearn", shape: tuple[int, int] = (28, 28),
           shares: Sequence[float] = (0.5, 0.25, 0.25), root: str | Path = "data/mnist") -> Cohort:
    """Draw a cohort of coloured digits.

    Parameters
    ----------
    variance : float
        Variance of each colour channel around its mean, at least 0; the drawn colour is clipped to [0, 1].
    seed : int
        The one seed: of the splits and of the colours.
    source : {'sklearn', 'mnist'}
        Whose handwriting; see the top of the module.
    shape : (int, int)
        Rows and columns of an image.
    shares : sequence of float
        Shares of train, validation and test. With ``'mnist'`` the test split is the official one, and the first two
        shares divide the rest.
    root : path
        Folder that holds MNIST, or that it is downloaded to. Not used with ``'sklearn'``.

    Returns
    -------
    Cohort
        Images ``(n, 3, H, W)``, the stroke times the colour on black. Target ``digit`` (0 to 9), attribute ``colour``
        (number of the mean colour: equal to the digit in train and validation, random in test), latents ``red``,
        ``green`` and ``blue`` (the colour itself). ``patient_id`` is the image: writers are not known.

    Raises
    ------
    ValueError
        For a variance below 0, an unknown source, a shape that is not two positive numbers, or broken files of MNIST.
    FileNotFoundError
        When MNIST is neither in ``root`` nor to be downloaded.
    """
    if not 0 <= variance < np.inf:
        raise ValueError(f"variance must be at least 0 and finite, got {variance}")
    if len(shape) != 2 or min(shape) < 1:
        raise ValueError(f"shape needs rows and columns of at least 1, got {tuple(shape)}")
    meta = {"simulator": "digits", "variance": float(variance), "seed": whole(seed, "seed", least=0), "source": source,
            "shape": [int(s) for s in shape], "shares": [float(s) for s in shares], "root": str(root)}
    strokes, digit, official_test = _strokes(source, tuple(meta["shape"]), meta["root"])
    names = [f"{source}-{k:05d}" for k in range(len(digit))]
    table = pd.DataFrame({"image_id": names, "patient_id": names, "split": "test", "digit": digit})
    if official_test is None:
        table["split"] = split_by_patient(table, seed, shares)
    else:
        known = np.array(shares[:2]) / sum(shares[:2])
        table.loc[~official_test, "split"] = split_by_patient(table[~official_test], seed, (*known, 0.0))
    colour = np.where(table["split"] == "test", _random_colours("colour", len(table), seed), digit)
    return _paint(strokes, table, colour, meta)


def recolour(cohort: Cohort, seed: int, matched: bool = False) -> Cohort:
    """Twins: the same digits under another mean colour, all else as it was.

    Strokes keep every bit, and each colour keeps its own deviation from the mean (drawn with the cohort's seed), so a
    difference between an image and its twin is the work of the mean colour alone.

    Parameters
    ----------
    cohort : Cohort
        Made by :func:`digits`; also after saving, loading, or taking a subset.
    seed : int
        Of the new mean colours, drawn from all ten at random; an image's colour does not depend on who else is there.
    matched : bool
        Give each digit its own mean colour instead, as in training; ``seed`` is then without effect.

    Raises
    ------
    ValueError
        For a cohort of another maker.
    """
    meta = cohort.meta
    if meta.get("simulator") != "digits":
        raise ValueError("only coloured digits can be recoloured: this cohort was not made by simulate.digits.digits")
    strokes, digit, _ = _strokes(meta["source"], tuple(meta["shape"]), meta["root"])
    rows = cohort.table["image_id"].str.rpartition("-")[2].astype(int).to_numpy()
    colour = digit if matched else _random_colours("twin", len(digit), seed)
    meta = {**meta, "recoloured": "matched" if matched else int(seed)}
    return _paint(strokes, cohort.table, colour[rows], meta, rows)


def colour_bins(images: np.ndarray, shape: tuple[int, int] = (14, 14)) -> np.ndarray:
    """Colour labels per pixel for a bias predictor: each channel cut into 8 equal bins.

    As in the published code, the label image is the image at the size of the feature map (nearest pixel). There a
    channel that is exactly 0 has no label, on black and on strokes alike; here only pixels that are 0 in all three
    channels, the black around the digit, have none.

    Parameters
    ----------
    images : numpy.ndarray
        Shape ``(n, 3, H, W)``, in [0, 1].
    shape : (int, int)
        Rows and columns of the labels.

    Returns
    -------
    numpy.ndarray
        int64, shape ``(n, 3, *shape)``: 0 to 7, or ``IGNORED`` (255) off the stroke.
    """
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"colour bins need images of shape (n, 3, H, W), got {images.shape}")
    rows, columns = (((np.arange(new) + 0.5) * old / new).astype(int)
                     for new, old in zip(shape, images.shape[2:], strict=True))
    small = images[:, :, rows[:, None], columns]
    bins = np.clip((small * BINS).astype(np.int64), 0, BINS - 1)
    return np.where(small.max(axis=1, keepdims=True) > 0, bins, IGNORED)


# ---------------------------------------------------------------------- drawing
def _random_colours(purpose: str, n: int, seed: int) -> np.ndarray:
    return streams(seed)(purpose).integers(len(MEAN_COLOURS), size=n)


def _paint(strokes: np.ndarray, table: pd.DataFrame, colour: np.ndarray, meta: dict, rows=slice(None)) -> Cohort:
    """Cohort of the strokes' ``rows`` (all, if not given) in the mean colours ``colour``, one for each table row."""
    deviation = streams(meta["seed"])("deviate").normal(size=(len(strokes), 3))[rows]
    rgb = np.clip(MEAN_COLOURS[colour] + np.sqrt(meta["variance"]) * deviation, 0, 1).astype(np.float32)
    table = table.assign(colour=colour, **dict(zip(_CHANNELS, rgb.T, strict=True)))
    schema = Schema({"digit": tuple(range(10))}, {"colour": tuple(range(len(MEAN_COLOURS)))}, _CHANNELS)
    return Cohort(strokes[rows][:, None] * rgb[:, :, None, None], table, schema, meta=meta)


@lru_cache(maxsize=2)
def _strokes(source: str, shape: tuple[int, int], root: str) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Strokes in [0, 1], float32 of shape (n, *shape), their digits, and which are officially for testing."""
    if source == "sklearn":
        bunch = load_digits()
        # Enlarged grey edges would be a wide halo without colour: a steeper edge makes strokes as crisp as MNIST's.
        large = _resize(bunch.images / 16, shape)
        return np.clip(2 * large - 0.5, 0, 1), bunch.target, None
    if source == "mnist":
        parts = [_mnist(root, train) for train in (True, False)]
        pixels, digit = (np.concatenate(part) for part in zip(*parts, strict=True))
        return _resize(pixels / 255, shape), digit, np.arange(len(digit)) >= len(parts[0][1])
    raise ValueError(f"unknown source '{source}', expected one of {', '.join(SOURCES)}")


def _resize(images: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    size = shape[::-1]  # the library counts columns first
    images = [Image.fromarray(i).resize(size, Image.Resampling.BICUBIC) for i in images.astype(np.float32)]
    return np.clip(np.stack(images), 0, 1)


def _mnist(root: str, train: bool) -> tuple[np.ndarray, np.ndarray]:
    from torchvision.datasets import MNIST

    try:
        part = MNIST(root, train=train, download=True)
    except (RuntimeError, URLError, OSError) as error:
        why = " ".join(str(error).split())
        raise FileNotFoundError(f"MNIST is not in '{root}' and could not be downloaded ({why}). source='sklearn' needs "
                                "no network; or put MNIST's four files, unpacked, into "
                                f"'{Path(root) / 'MNIST' / 'raw'}'") from error
    except Exception as error:  # whatever a broken file sets off
        raise ValueError(f"MNIST in '{root}' cannot be read ({type(error).__name__}: {error}): delete that folder, "
                         "and it is downloaded again") from error
    return part.data.numpy(), part.targets.numpy()
