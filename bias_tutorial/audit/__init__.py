"""An audit of chest X-ray findings by group: what ``bias-tutorial cxr`` does.

Nothing reaches the report but the tables of :mod:`bias_tutorial.audit.tables`, and nothing reaches those unmasked: see
:mod:`bias_tutorial.audit.privacy`.
"""

from .command import audit, demo
from .study import Settings

__all__ = ["Settings", "audit", "demo"]
