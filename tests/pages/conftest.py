"""One browser for all page checks; without a browser or a built book, one sentence says what did not run."""

import os

import pytest
from browser import ARGUMENTS, HTML, chromium, open_page, pages, serve


def pytest_sessionstart(session):
    """Stop with a plain sentence where the checks cannot run: an error in CI, a notice on a reader's machine."""
    in_ci = os.environ.get("CI") == "true"
    if not (HTML / "index.html").exists():
        pytest.exit(f"There is no built book in {HTML}: run `make book` first.", returncode=1)
    if chromium() is None:
        pytest.exit("No Chromium or Chrome was found (set CHROMIUM to one), so the page checks did NOT run: network, "
                    "console, accessibility, phone width, dark mode, search and explorers.", returncode=int(in_ci))


def pytest_generate_tests(metafunc):
    """Give a test that asks for `name` every page of the book."""
    if "name" in metafunc.fixturenames:
        metafunc.parametrize("name", pages())


@pytest.fixture(scope="session")
def browser():
    """Chromium, started once."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        started = play.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture(scope="session")
def server():
    """The address at which this machine serves the book to itself."""
    started, address = serve()
    yield address
    started.shutdown()
    started.server_close()


@pytest.fixture(params=["file", "served"])
def opened_as(request):
    """How a page is opened: None as a file, or the address of a server."""
    return request.getfixturevalue("server") if request.param == "served" else None


@pytest.fixture
def visit(browser):
    """Open pages that are closed when the test ends."""
    contexts = []

    def open_one(*args, **kwargs):
        page, faults = open_page(browser, *args, **kwargs)
        contexts.append(page.context)
        return page, faults

    yield open_one
    for context in contexts:
        context.close()
