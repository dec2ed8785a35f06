"""Maps and clusters of an embedding, what explains a cluster, and whether one hides that no given label explains.

A t-SNE map is for looking at. Clusters are found in the embedding, and a hidden mode is decided on by
:func:`hidden_mode`, whose rate of false alarms is known.
"""

from .clusters import Clusters, Portrait, clusters, explain, portrait, verdicts
from .hidden import HiddenMode, hidden_mode, without
from .maps import Maps, maps

__all__ = ["Clusters", "HiddenMode", "Maps", "Portrait", "clusters", "explain", "hidden_mode", "maps", "portrait",
           "verdicts", "without"]
