"""Pictures of every page for a person to look at: desktop and phone width, light and dark, in book/_build/shots."""

import sys

from browser import ARGUMENTS, HTML, SIZES, chromium, open_page, pages
from playwright.sync_api import sync_playwright

FOLDER = HTML.parent / "shots"


def main(wanted: list[str]) -> None:
    """Save one full-page PNG per page, size and theme; with names given, only of pages that contain one of them."""
    FOLDER.mkdir(exist_ok=True)
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
        for name in pages():
            if wanted and not any(word in name for word in wanted):
                continue
            for size in SIZES:
                for theme in ("light", "dark"):
                    page, _ = open_page(browser, name, size, theme)
                    file = FOLDER / f"{name.removesuffix('.html').replace('/', '-')}-{size}-{theme}.png"
                    page.screenshot(path=file, full_page=True)
                    page.context.close()
        browser.close()
    print(f"The pictures are in {FOLDER}")


if __name__ == "__main__":
    sys.exit("No Chromium or Chrome was found (set CHROMIUM to one).") if chromium() is None else main(sys.argv[1:])
