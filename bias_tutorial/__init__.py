"""Where Bias Hides: simulated medical images with known bias, and the answer key to measure it against.

Importing the package takes milliseconds: it loads no other library. It does one thing, which costs nothing until it
is needed: it lets torchvision be imported beside a CPU build of torch (see :mod:`bias_tutorial.environment`).
"""

from .environment import check_env, mend_torchvision, ready
from .sizes import fit_to_memory

__version__ = "0.1.0"
__all__ = ["__version__", "check_env", "fit_to_memory", "ready"]

mend_torchvision()
