"""What a reader takes away: the notebooks as one archive, and the built book as one archive (``make zip``).

    python book/downloads.py

The same files give the same bytes.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

import parts
from execution import BuildError

EPOCH = (2000, 1, 1, 0, 0, 0)  # the time stamp of every file in an archive
LICENCES = ("LICENSE", "LICENSE-CONTENT", "NOTICE", "CITATION.cff")


def pack(target: Path, files: Iterable[tuple[str, Path]]) -> Path:
    """Write an archive of (name, file), whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, half = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    os.close(handle)
    try:
        with zipfile.ZipFile(half, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, path in sorted(files):
                entry = zipfile.ZipInfo(name, EPOCH)
                entry.external_attr = 0o644 << 16
                archive.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)
        os.chmod(half, 0o644)
        os.replace(half, target)
    except BaseException:
        Path(half).unlink(missing_ok=True)
        raise
    return target


def beside(book) -> list[Path]:
    """The licences and the citation, which go with every copy."""
    return [book.root / name for name in LICENCES if (book.root / name).is_file()]


def notebooks(book) -> Path:
    """All notebooks without results and the sheets, with the licences, in the folder of downloads of the built book."""
    folder = parts.NOTEBOOKS.removesuffix(".zip")
    files = [(f"{folder}/{path.relative_to(book.source).as_posix()}", path) for path in book.chapters()]
    files += [(f"{folder}/{path.name}", path) for path in beside(book)]
    files += [(f"{folder}/sheets/{path.name}", path) for path in parts.sheets(book)]
    target = book.build / "html" / parts.DOWNLOADS
    for path in parts.sheets(book):
        (target / "sheets").mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target / "sheets")
    return pack(target / parts.NOTEBOOKS, files)


def whole(book) -> Path:
    """The built book with the licences: ``_build/where-bias-hides.zip``, also put where the page of downloads links."""
    html = book.build / "html"
    if not (html / "index.html").exists():
        raise BuildError(f"There is no built book in {html}: run `make book` first.")
    folder, copy = parts.BOOK_ZIP.removesuffix(".zip"), html / parts.DOWNLOADS / parts.BOOK_ZIP
    copy.unlink(missing_ok=True)
    files = [(f"{folder}/{path.relative_to(html).as_posix()}", path) for path in html.rglob("*") if path.is_file()]
    files += [(f"{folder}/{path.name}", path) for path in beside(book)]
    target = pack(book.build / parts.BOOK_ZIP, files)
    parts.offer(target, html, "zip", "The whole book as one archive of plain files")
    return target


def main(arguments: list[str] | None = None) -> int:
    """Command line; 0 when the archive is there, 1 with the reason otherwise."""
    return parts.command(whole, __doc__, arguments)


if __name__ == "__main__":
    sys.exit(main())
