"""What the blocks of a network hold: activations, exact components, published and honest measures of encoding."""

from .activations import Activations, block_names
from .directions import bias_on_disease, con_score, margin_ratio
from .encoding import aggregate, boundary, densities, disease_dominant, individual
from .pca import GramPCA, gram
from .probes import CodeLength, Probe, Selectivity, code_length, probe, random_labels, selectivity, within
from .readout import CLASS_PROBES, NUMBER_PROBES, judged, read_out
from .use import Effect, erase, fit_eraser, log_odds, run_from, swap

__all__ = [
    "Activations", "block_names",
    "aggregate", "boundary", "densities", "disease_dominant", "individual",
    "GramPCA", "gram",
    "CodeLength", "Probe", "Selectivity", "code_length", "probe", "random_labels", "selectivity", "within",
    "CLASS_PROBES", "NUMBER_PROBES", "judged", "read_out",
    "Effect", "erase", "fit_eraser", "log_odds", "run_from", "swap",
    "bias_on_disease", "con_score", "margin_ratio",
]
