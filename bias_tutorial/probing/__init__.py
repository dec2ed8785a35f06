"""What the blocks of a network hold: activations, exact components, published and honest measures of encoding."""

from .activations import Activations, block_names
from .encoding import aggregate, boundary, densities, disease_dominant, individual
from .pca import GramPCA, gram

__all__ = [
    "Activations", "block_names",
    "aggregate", "boundary", "densities", "disease_dominant", "individual",
    "GramPCA", "gram",
]
