"""How much a page weighs and how soon it shows something; leaves ``weight.json`` and ``weight.md`` beside the book."""

import json
import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from browser import HTML, pages

MOST_OWN = 3_000_000  # bytes: the page with its own pictures and data
MOST_SECONDS = 2.0  # to the first paint, on two cores
ATTEMPTS = 5  # a busy machine may miss the time once, not every time
SHARED = ("_static/", "searchindex.js")
PAINT = """() => new Promise(done => new PerformanceObserver(list => done(list.getEntries()
    .filter(e => e.name === 'first-contentful-paint').map(e => e.startTime / 1000)[0]))
    .observe({type: 'paint', buffered: true}))"""


def files(loaded: list[str]) -> dict[str, int]:
    """Bytes of every file of the book among these addresses, by its path below the book."""
    paths = {Path(unquote(urlsplit(url).path)) for url in loaded if url.startswith("file:")}
    return {path.relative_to(HTML).as_posix(): path.stat().st_size for path in paths if path.is_file()}


def split(found: dict[str, int]) -> tuple[int, int]:
    """Bytes of a page's own files, and of those that pages share."""
    shared = sum(size for name, size in found.items() if name.startswith(SHARED))
    return sum(found.values()) - shared, shared


@pytest.fixture(scope="module")
def rows():
    """What each page weighs; written down when every page was measured."""
    found = {}
    yield found
    if sorted(found) == pages():
        write(found)


def write(found: dict[str, dict]) -> None:
    """Leave the table as data and as text, largest page first."""
    whole = sum(path.stat().st_size for path in HTML.rglob("*") if path.is_file())
    assets = {path.relative_to(HTML).as_posix(): path.stat().st_size for path in HTML.rglob("*") if path.is_file()
              and path.relative_to(HTML).as_posix().startswith(SHARED)}
    largest = dict(sorted(assets.items(), key=lambda item: -item[1])[:10])
    ordered = dict(sorted(found.items(), key=lambda item: -item[1]["own_bytes"]))
    totals = {"book_bytes": whole, "shared_bytes": sum(assets.values()), "largest_shared_bytes": largest,
              "cores": os.cpu_count(), "pages": ordered}
    (HTML.parent / "weight.json").write_text(json.dumps(totals, indent=1) + "\n", encoding="utf-8")
    lines = ["# What the pages weigh", "",
             f"The built book has {whole / 1e6:.1f} MB; {sum(assets.values()) / 1e6:.1f} MB are files that pages share."
             f" A first load is a page with all it loads, uncompressed. First paint: the best of at most {ATTEMPTS} "
             f"loads, on {os.cpu_count()} cores.", "",
             "| page | own kB | first load, kB | first paint, s |", "|:---|---:|---:|---:|"]
    lines += [f"| {name} | {row['own_bytes'] / 1e3:,.0f} | {row['first_load_bytes'] / 1e3:,.0f} | "
              f"{row['first_paint_seconds']:.2f} |" for name, row in ordered.items()]
    lines += ["", "| largest shared file | kB |", "|:---|---:|"]
    lines += [f"| {name} | {size / 1e3:,.0f} |" for name, size in largest.items()]
    (HTML.parent / "weight.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_is_light_and_shows_something_soon(visit, name, rows):
    best = float("inf")
    for _ in range(ATTEMPTS):
        page, faults = visit(name)
        best = min(best, page.evaluate(PAINT))
        if best < MOST_SECONDS:
            break
    page.mouse.wheel(0, 100_000)
    own, shared = split(files(faults.loaded))
    rows[name] = {"own_bytes": own, "first_load_bytes": own + shared, "first_paint_seconds": round(best, 3)}
    assert own >= (HTML / name).stat().st_size, "the page itself was not counted"
    assert own <= MOST_OWN, f"the page weighs {own:,} bytes with its own pictures and data, at most {MOST_OWN:,}"
    assert best < MOST_SECONDS, f"the first paint took {best:.1f} s in the best of {ATTEMPTS} loads"
