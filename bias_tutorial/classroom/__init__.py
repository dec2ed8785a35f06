"""Exercises that are graded: drawing their numbers, checking answers, making sheets, grading submissions."""

from .draw import Numbers, draw

__all__ = ["Numbers", "draw"]
