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

__all__ = ["ARMS", "CLEAN", "COSTS", "GAPS", "PREVALENCE_GAPS", "PUBLISHED", "PUBLISHED_DIGITS", "RUNS_OVER_N",
           "accuracy_over_rho", "audit_table", "audits_table", "channels", "component_explorer",
           "digits_beside_published", "gap_by_cause", "gap_over_n", "gap_over_p", "groups_against_key", "key_explorer",
           "levelling", "levelling_table", "local_effect", "losses", "marked_scans", "marks_explorer", "methods_map",
           "methods_table", "observers_against_key", "over_seeds", "published_beside_ours", "regions_on_template",
           "saliency_maps", "scenario_counts", "splits_table", "spot_the_bias", "stored_blocks", "stored_components",
           "stored_dots", "stored_encoding", "stored_explorer", "threshold_explorer", "twins", "volumes_beside_slices"]
