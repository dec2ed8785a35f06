"""Ratios against reference implementations, measured in one run: ``make bench``."""
