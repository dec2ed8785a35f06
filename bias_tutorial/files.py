"""Files of images: written whole or not at all, read on demand."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import nibabel
import numpy as np

NIFTI, PICTURES, DICOM = (".nii", ".nii.gz"), (".png", ".jpg", ".jpeg"), (".dcm", ".dicom", "")
FORMATS = (*NIFTI, *PICTURES, ".npy", ".dcm", ".dicom")
SCALES = "'type', 'image', 'none' or a pair (low, high)"


# ---------------------------------------------------------------------- writing
@contextmanager
def atomic(path: str | Path) -> Iterator[BinaryIO]:
    """Open a file for writing so that it appears under its name only once it is whole.

    The bytes go to a temporary file in the same folder, reach the disk, and then take the name in one step. Whatever
    stops the writing before that leaves the old file, or none, and no temporary file unless the process is killed.

    Raises
    ------
    OSError
        When the disk is full or the folder refuses writes; the message names the file.
    """
    path = Path(path)
    # The process number keeps two writers of the same file apart.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except FileNotFoundError:
        raise  # an image that was to be read while writing: its own message says which
    except OSError as error:
        raise type(error)(error.errno, f"could not write '{path}' ({error.strerror or error}); "
                                       "nothing was left there by halves") from error
    finally:
        # A failure to clean up must not hide what went wrong before it.
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file atomically, UTF-8, with line feeds on every platform."""
    with atomic(path) as handle:
        handle.write(text.encode())


def to_json(values: Any) -> str:
    """JSON with numpy numbers turned into plain ones; anything else that JSON does not know raises ``TypeError``."""
    def plain(value):
        if isinstance(value, (np.generic, np.ndarray)):
            return value.tolist()
        raise TypeError(f"{type(value).__name__} {value!r} cannot be written as JSON")
    return json.dumps(values, default=plain, indent=2, ensure_ascii=False)


def write_nifti(path: str | Path, image: np.ndarray, affine: np.ndarray | None = None) -> None:
    """Write one image as float32 NIfTI, gzip-compressed; the same image gives the same bytes.

    Parameters
    ----------
    path : path
        Ends in ``.nii.gz``.
    image : array, shape (1, H, W) or (1, D, H, W)
        A slice is stored as a volume of shape (H, W, 1).
    affine : array, shape (4, 4), optional
        From array indices to mm; identity when not given.
    """
    image = np.asarray(image, dtype=np.float32)
    if image.ndim not in (3, 4) or image.shape[0] != 1:
        raise ValueError(f"'{path}': a NIfTI file takes an image of shape (1, H, W) or (1, D, H, W), got {image.shape}")
    if not np.isfinite(image).all():
        raise ValueError(f"'{path}': the image holds NaN or infinite values")
    volume = image[0] if image.ndim == 4 else image[0][..., None]
    nifti = nibabel.Nifti1Image(volume, np.eye(4) if affine is None else np.asarray(affine, dtype=float))
    nifti.header.set_xyzt_units("mm")
    # Noise does not compress, background does: run lengths find it at a fraction of the usual cost. No time stamp.
    packer = zlib.compressobj(1, zlib.DEFLATED, 31, 9, zlib.Z_RLE)
    packed = packer.compress(nifti.to_bytes()) + packer.flush()
    with atomic(path) as handle:
        handle.write(packed)


# ---------------------------------------------------------------------- reading
def suffix(path: Path) -> str:
    """The lower-case ending that names the format; both parts of ``.nii.gz``."""
    name = path.name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else path.suffix.lower()


def read_image(path: str | Path) -> tuple[np.ndarray, tuple[float, float] | None]:
    """One image as it is stored, channels first.

    Parameters
    ----------
    path : path
        NIfTI (``.nii``, ``.nii.gz``), PNG, JPEG, DICOM (``.dcm``, ``.dicom`` or no ending) or ``.npy``.

    Returns
    -------
    array
        ``(C, H, W)`` for slices and pictures, with C = 3 for colour (transparency is dropped); ``(1, D, H, W)`` for
        volumes, axes in the file's order; ``(F,)`` for a one-dimensional ``.npy``. A ``.npy`` of three axes holds
        channels if the first has length 1 or 3, a volume otherwise.
    limits : pair of float or None
        Smallest and largest value that the stored type can hold, for unsigned integers (DICOM: by BitsStored, after
        which MONOCHROME1 is inverted so that high is bright); None where the type sets no scale.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    ValueError
        When the format is unknown, or the file is truncated or otherwise unreadable; the message names it.
    """
    path = Path(path)
    ending = suffix(path)
    readers = {**dict.fromkeys(NIFTI, _read_nifti), **dict.fromkeys(PICTURES, _read_picture),
               **dict.fromkeys(DICOM, _read_dicom), ".npy": _read_npy}
    if ending not in readers:
        raise ValueError(f"'{path}': unknown format '{ending}', expected one of {', '.join(FORMATS)}")
    if not path.is_file():
        raise FileNotFoundError(f"'{path}': there is no such file")
    try:
        array, limits = readers[ending](path)
    except (MemoryError, ModuleNotFoundError):
        raise
    except Exception as error:  # each library has its own errors for a broken file
        raise ValueError(f"'{path}': cannot be read as {ending.strip('.') or 'DICOM'} ({type(error).__name__}: "
                         f"{error}); the file may be truncated, or hold something else") from error
    if array.dtype.kind not in "fiub":
        raise ValueError(f"'{path}': holds values of type {array.dtype}, expected real numbers")
    return array, limits


def _limits(dtype: np.dtype) -> tuple[float, float] | None:
    if dtype.kind == "b":
        return 0.0, 1.0
    return (0.0, float(np.iinfo(dtype).max)) if dtype.kind == "u" else None


def _read_nifti(path: Path):
    content = path.read_bytes()
    if suffix(path) == ".nii.gz":
        content = gzip.decompress(content)  # all of it, so that the checksum at the end is read too
    stored = np.asanyarray(nibabel.Nifti1Image.from_bytes(content).dataobj)
    while stored.ndim > 3 and stored.shape[-1] == 1:
        stored = stored[..., 0]
    if stored.ndim == 3 and stored.shape[2] == 1:
        stored = stored[..., 0]
    if stored.ndim not in (2, 3):
        raise ValueError(f"expected a slice or a volume, got shape {stored.shape}")
    return stored[None], _limits(stored.dtype)


def _read_picture(path: Path):
    from PIL import Image

    with Image.open(path) as picture:
        picture.load()
        if picture.mode.startswith("I"):  # 16-bit grey; some versions of the library hand it over in 32 bits
            return np.asarray(picture).astype(np.uint16)[None], (0.0, 65535.0)
        if picture.mode == "F":
            return np.asarray(picture)[None], None
        grey = picture.mode in ("1", "L", "LA")
        array = np.asarray(picture.convert("L" if grey else "RGB"))
    return (array[None] if grey else np.moveaxis(array, -1, 0)), (0.0, 255.0)


def _read_dicom(path: Path):
    try:
        import pydicom
        from pydicom.pixels import apply_rescale
    except ModuleNotFoundError:
        raise ModuleNotFoundError("reading DICOM needs pydicom: pip install 'bias-tutorial[readers]'") from None

    scan = pydicom.dcmread(path)
    stored = scan.pixel_array
    limits = (0.0, float(2**scan.BitsStored - 1)) if stored.dtype.kind == "u" else None
    if scan.get("SamplesPerPixel", 1) == 3:
        if stored.ndim != 3:
            raise ValueError(f"several colour frames in one file are not supported, got shape {stored.shape}")
        return np.moveaxis(stored, -1, 0), limits
    rescaled = apply_rescale(stored, scan)
    if (float(scan.get("RescaleSlope", 1)), float(scan.get("RescaleIntercept", 0))) != (1.0, 0.0):
        stored, limits = rescaled, None
    if scan.get("PhotometricInterpretation") == "MONOCHROME1":
        stored = (limits[1] if limits else stored.max() + stored.min()) - stored.astype(np.float64)
    return stored[None], limits


def _read_npy(path: Path):
    stored = np.load(path, allow_pickle=False)
    if stored.ndim == 2 or (stored.ndim == 3 and stored.shape[0] not in (1, 3)):
        stored = stored[None]
    if stored.ndim not in (1, 3, 4):
        raise ValueError(f"expected 1 to 4 axes, got shape {stored.shape}")
    return stored, _limits(stored.dtype)


def _geometry(path: str) -> tuple[str, np.ndarray]:
    """Where the axes of a NIfTI file run to, as R, A, S; voxel size in the unit of the file, mm as a rule."""
    header = nibabel.load(path)
    return ", ".join(str(code) for code in nibabel.aff2axcodes(header.affine)), np.array(header.header.get_zooms()[:3])


def _same_geometry(path: str, first: str, axes: str, size: np.ndarray) -> None:
    """Raise ``ValueError`` unless a NIfTI file lies as the first one does."""
    found, voxel = _geometry(path)
    if found != axes:
        raise ValueError(f"'{path}': axes run to {found}, expected {axes} as in '{first}'; "
                         "bring all files into one orientation first")
    if not np.allclose(voxel, size, rtol=0.01):
        has, wanted = (" x ".join(f"{v:g}" for v in sizes) for sizes in (voxel, size))
        raise ValueError(f"'{path}': voxels of {has} mm, expected {wanted} as in '{first}'; "
                         "resample all files to one size first")


def check_scale(scale) -> None:
    """Raise ``ValueError`` unless ``scale`` is one of the rules of :class:`ImageFiles`."""
    pair = isinstance(scale, (tuple, list)) and len(scale) == 2 and scale[0] < scale[1]
    if not pair and scale not in ("type", "image", "none"):
        raise ValueError(f"scale must be {SCALES} with low < high, got {scale!r}")


class Rows:
    """Images or masks read when their rows are asked for, so that memory holds one batch and not the cohort.

    Parameters
    ----------
    places : sequence
        Where each row is found; no place is an array itself.
    read : callable
        From a place to an array of the given shape.
    shape : tuple of int
        Of one row.
    dtype : type
        Of several rows together.
    """

    def __init__(self, places: Sequence[Any], read: Callable[[Any], np.ndarray], shape: Sequence[int],
                 dtype: type = np.float32):
        self.places = np.array(places, dtype=object)
        self.read, self.dtype = read, dtype
        self.shape = (len(self.places), *shape)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, rows) -> np.ndarray:
        """One row, a slice, an array of rows or a boolean mask."""
        chosen = self.places[rows]
        if not isinstance(chosen, np.ndarray):
            return self.read(chosen)
        found = np.empty((len(chosen), *self.shape[1:]), self.dtype)
        for k, place in enumerate(chosen):
            found[k] = self.read(place)
        return found

    def subset(self, rows) -> Rows:
        """The same for fewer rows, still unread."""
        return Rows(self.places[rows], self.read, self.shape[1:], self.dtype)


class ImageFiles(Rows):
    """Images in float32, one from each file; see :class:`Rows`.

    Parameters
    ----------
    paths : sequence of path
        One file per row; see :func:`read_image` for the formats.
    scale : {'type', 'image', 'none'} or (float, float)
        How stored values become [0, 1]. ``'type'``: by the range of the stored type, so that brightness stays
        comparable between images; for unsigned integers, and for real numbers that already lie in [0, 1]. ``'image'``:
        each image's own minimum and maximum, which *removes* differences in brightness and contrast range between
        images. ``(low, high)``: this window for all, values outside it clipped. ``'none'``: as stored.
        One-dimensional ``.npy`` files are features and are never scaled.
    shape : tuple of int, optional
        Shape every image must have, channels first; that of the first file when not given.

    Raises
    ------
    ValueError, FileNotFoundError
        On reading: a file that is missing, truncated, of another shape, holds NaN, or does not fit the scale.
    """

    def __init__(self, paths: Sequence[str | Path], scale="type", shape: Sequence[int] | None = None):
        check_scale(scale)
        self.paths, self.scale = np.array([str(p) for p in paths], dtype=object), scale
        super().__init__(self.paths, self._read, self._scaled(self.paths[0]).shape if shape is None else shape)

    def subset(self, rows) -> ImageFiles:
        """The same files for fewer rows, still unread."""
        return ImageFiles(self.paths[rows], self.scale, self.shape[1:])

    def check(self, most: int = 20) -> None:
        """Read every file once, so that broken ones are found now and not in the middle of a training.

        NIfTI files must also agree in orientation and voxel size: no shape betrays that one scanner stored left as
        right, and a network may read it.

        Raises
        ------
        ValueError, FileNotFoundError
            With one fault, its message; with several, how many there are, and the first ``most`` of them.
        """
        faults, first = [], None
        for path in self.paths:
            try:
                self._read(path)
                if suffix(Path(path)) in NIFTI:
                    first = first or (path, *_geometry(path))
                    _same_geometry(path, *first)
            except (ValueError, FileNotFoundError) as error:
                faults.append(error)
        if len(faults) == 1:
            raise faults[0]
        if faults:
            listed = "\n".join(f"- {fault}" for fault in faults[:most])
            more = f"\n- and {len(faults) - most} more" if len(faults) > most else ""
            raise ValueError(f"{len(faults)} of {len(self.paths)} images cannot be used:\n{listed}{more}")

    def _read(self, path: str) -> np.ndarray:
        image = self._scaled(path)
        if image.shape != self.shape[1:]:
            raise ValueError(f"'{path}': image has shape {image.shape}, expected {tuple(self.shape[1:])}; images of a "
                             "cohort have one shape (channels first), by default that of the first file")
        return image

    def _scaled(self, path: str) -> np.ndarray:
        stored, limits = read_image(path)
        if not np.isfinite(stored).all():
            raise ValueError(f"'{path}': the image holds NaN or infinite values")
        if self.scale == "none" or stored.ndim == 1:
            return stored.astype(np.float32)
        low, high = float(stored.min()), float(stored.max())
        if self.scale == "image":
            if low == high:
                raise ValueError(f"'{path}': every value is {low:g}, so the image cannot be scaled by its own range")
            limits = low, high
        elif self.scale != "type":
            limits = self.scale
        elif limits is None:
            if low < 0 or high > 1:
                raise ValueError(f"'{path}': values of type {stored.dtype} from {low:g} to {high:g} have no range of "
                                 "their own; say scale=(low, high) for one window, or scale='image' for each image's "
                                 "minimum and maximum (which removes differences in brightness)")
            return stored.astype(np.float32)
        return np.clip((stored.astype(np.float64) - limits[0]) / (limits[1] - limits[0]), 0, 1).astype(np.float32)
