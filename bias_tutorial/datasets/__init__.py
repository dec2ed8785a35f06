"""Readers of real data. Each gives the same :class:`bias_tutorial.cohort.Cohort` as the simulator, and never writes."""
