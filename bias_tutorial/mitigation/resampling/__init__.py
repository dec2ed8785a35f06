"""Change which training rows are seen, and how often: balancing counts, balancing findings, and their controls.

Every procedure takes :class:`Groups`, the checked training rows of a cohort, and returns :class:`Resampled`: row
numbers into the cohort's table, all of the training split, with a :class:`Report` of what changed. Split first, then
resample: :func:`guard` refuses the other order. ClusterCentroids and SMOTE of imbalanced-learn return made rows in
place of row numbers, and one class a row; so the clusters and neighbours here are those of scikit-learn.
"""

from .by_finding import by_finding, rake, reweighing
from .counts import as_released, balanced_counts, random_subset
from .described import as_described
from .groups import Groups, guard
from .report import Report, Resampled

__all__ = ["Groups", "Report", "Resampled", "as_described", "as_released", "balanced_counts", "by_finding", "guard",
           "rake", "random_subset", "reweighing"]
