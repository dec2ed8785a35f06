"""Figures, tables and explorers that the chapters show, one function each, a file for each chapter."""

from .chapter_01 import (
    key_explorer,
    local_effect,
    observers_against_key,
    regions_on_template,
    scenario_counts,
    spot_the_bias,
    twins,
)
from .chapter_02 import (
    RUNS_OVER_N,
    gap_over_n,
    gap_over_p,
    groups_against_key,
    losses,
    saliency_maps,
    stored_explorer,
    volumes_beside_slices,
)
from .chapter_03 import (
    PUBLISHED,
    audit_table,
    channels,
    component_explorer,
    published_beside_ours,
    stored_blocks,
    stored_components,
    stored_encoding,
)
from .chapter_04 import (
    ARMS,
    CLEAN,
    GAPS,
    PUBLISHED_DIGITS,
    accuracy_over_rho,
    audits_table,
    digits_beside_published,
    marked_scans,
    marks_explorer,
    methods_map,
    methods_table,
)
from .chapter_05 import (
    GAPS_MOVED,
    KINDS_COMPARED,
    chests,
    come_back,
    dose_curves,
    embedding_map,
    encoders_beside_published,
    error_over_training,
    found_over_dose,
    inflation_over_likeness,
    maps_of_known_groups,
    older,
    over_agreement,
    sides_seen,
    two_sides,
)
from .chapter_06 import (
    COSTS,
    PREVALENCE_GAPS,
    gap_by_cause,
    levelling,
    levelling_table,
    splits_table,
    threshold_explorer,
)
from .stored import over_seeds, stored_dots

__all__ = ["ARMS", "CLEAN", "COSTS", "GAPS", "GAPS_MOVED", "KINDS_COMPARED", "PREVALENCE_GAPS", "PUBLISHED",
           "PUBLISHED_DIGITS", "RUNS_OVER_N", "accuracy_over_rho", "audit_table", "audits_table", "channels", "chests",
           "come_back", "component_explorer", "digits_beside_published", "dose_curves", "embedding_map",
           "encoders_beside_published", "error_over_training", "found_over_dose", "gap_by_cause", "gap_over_n",
           "gap_over_p", "groups_against_key", "inflation_over_likeness", "key_explorer", "levelling",
           "levelling_table", "local_effect", "losses", "maps_of_known_groups", "marked_scans", "marks_explorer",
           "methods_map", "methods_table", "observers_against_key", "older", "over_agreement", "over_seeds",
           "published_beside_ours", "regions_on_template", "saliency_maps", "scenario_counts", "sides_seen",
           "splits_table", "spot_the_bias", "stored_blocks", "stored_components", "stored_dots", "stored_encoding",
           "stored_explorer", "threshold_explorer", "twins", "two_sides", "volumes_beside_slices"]
