"""Print the picture of the first page as HTML: one simulated subject as made, and with each of two biases."""

from bias_tutorial import pictures, simulate
from bias_tutorial.scenario import preset

SEED, SUBJECT = 3, 2


def cover() -> str:
    """Draw the same subject three times: untouched, with one region reshaped, with its contrast stretched."""
    cohort = simulate.brain(preset("both"), 8, SEED).subset([SUBJECT])
    made, shaped, stretched = (simulate.counterfactual(cohort, morphology=m, intensity=i).images[0][0]
                               for m, i in ((0, 0), (1, 0), (0, 1)))
    figure = pictures.image_grid([made, shaped, stretched], ["as made", "one region reshaped", "contrast stretched"],
                                 [None, shaped - made, None], "change of grey",
                                 what="One simulated brain slice: without a bias, and with each of two biases")
    return figure.html()


if __name__ == "__main__":
    print(cover())
