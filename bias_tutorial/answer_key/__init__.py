"""The answer key: what the training data reward, what we want, and how far apart they are.

A simulated design has a best possible reader. :func:`solve` computes its results without drawing a single image:

- ``rewarded``: what the training data reward, the Bayes-optimal use of severity *and* visible bias attributes;
- ``wanted``: what we want, the best threshold on severity alone, the same in every group.

Mitigation that succeeds makes accuracy on the training distribution *fall* from the first towards the second. The key
is a reference, not a target: a trained network need not reach it.
"""

from .key import AnswerKey, Reference, read_out_ceiling, shortcut_curve, solve
from .limits import margin_ratio, marginal_independence, prevalence_by_group, shift_auc
from .one_sided import class_means, marks_on_one_class, one_sided
from .prevalence import Group, finding_by_group
from .reader import Evaluation, Sight

__all__ = ["AnswerKey", "Evaluation", "Group", "Reference", "Sight", "class_means", "finding_by_group", "margin_ratio",
           "marginal_independence", "marks_on_one_class", "one_sided", "prevalence_by_group", "read_out_ceiling",
           "shift_auc", "shortcut_curve", "solve"]
