"""Vouching for results: bundles, checks, two runs that agree."""
