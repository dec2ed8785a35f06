"""Make the template that ships with the package from nilearn's copy of MNI152 (nilearn is a development dependency).

Run ``python -m bias_tutorial.assets.make_template`` to remake it; a test compares the result with the file that ships.
"""

import gzip
import io
from pathlib import Path

import numpy as np

TEMPLATE = Path(__file__).parent / "mni152_t1_1mm.nii.gz"


def make_template() -> bytes:
    """The MNI152 2009 symmetric T1 template, skull-stripped, 1 mm, as the bytes of a gzipped uint8 NIfTI file."""
    import nibabel as nib
    from nilearn.datasets import load_mni152_template

    source = load_mni152_template(resolution=1)
    data = np.round(np.clip(source.get_fdata(), 0, 1) * 255).astype(np.uint8)
    plain = nib.Nifti1Image(data, source.affine)
    plain.header.set_xyzt_units("mm")
    raw, packed = io.BytesIO(plain.to_bytes()), io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=9, mtime=0, filename="") as file:
        file.write(raw.getvalue())
    return packed.getvalue()


if __name__ == "__main__":
    TEMPLATE.write_bytes(make_template())
    print(f"wrote {TEMPLATE.name}, {TEMPLATE.stat().st_size / 1e6:.1f} MB")
