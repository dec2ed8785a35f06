"""Methods against the use of a bias, one file a method, all called in the same way; see :class:`Method`.

Linear erasure, which takes features and trains no network, stands apart: :mod:`.erasure`; so does what
changes the training rows and trains nothing: :mod:`.resampling`.
"""

from . import erasure, resampling
from .adversarial import AdversarialUnlearning
from .balanced_batches import BalancedBatches
from .group_models import ByGroup, GroupModels
from .learning_not_to_learn import LearningNotToLearn
from .method import Method
from .plain import Grey, GreyInput, Plain
from .reweighing import Reweighing

METHODS = {
    "plain": Plain,
    "grey_input": GreyInput,
    "reweighing": Reweighing,
    "balanced_batches": BalancedBatches,
    "group_models": GroupModels,
    "learning_not_to_learn": LearningNotToLearn,
    "adversarial_unlearning": AdversarialUnlearning,
}
"""Methods by the names that stored settings give them: ``METHODS[name](**settings)``."""

__all__ = ["METHODS", "AdversarialUnlearning", "BalancedBatches", "ByGroup", "Grey", "GreyInput", "GroupModels",
           "LearningNotToLearn", "Method", "Plain", "Reweighing", "erasure",
           "resampling"]
