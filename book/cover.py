"""The picture of the first page: one simulated subject as made, and with each of two biases.

``python book/cover.py`` prints it as HTML for the book; ``python book/cover.py README.png`` draws it for the README
(with playwright and Debian's chromium).
"""

import shutil
import sys
from pathlib import Path

from bias_tutorial import pictures, simulate
from bias_tutorial.scenario import preset

SEED, SUBJECT = 3, 2
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]


def cover() -> str:
    """Draw the same subject three times: untouched, with one region reshaped, with its contrast stretched."""
    cohort = simulate.brain(preset("both"), 8, SEED).subset([SUBJECT])
    made, shaped, stretched = (simulate.counterfactual(cohort, morphology=m, intensity=i).images[0][0]
                               for m, i in ((0, 0), (1, 0), (0, 1)))
    figure = pictures.image_grid([made, shaped, stretched], ["as made", "one region reshaped", "contrast stretched"],
                                 [None, shaped - made, None], "change of grey",
                                 what="One simulated brain slice: without a bias, and with each of two biases")
    return figure.html()


def draw(path: Path) -> None:
    """Write the picture as a PNG on white."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 760, "height": 400}, device_scale_factor=2)
        page.set_content(f"<body style='margin:0;padding:8px;width:700px;background:white'>{cover()}</body>")
        page.locator("figure").screenshot(path=str(path))
        browser.close()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        draw(Path(sys.argv[1]))
    else:
        print(cover())
