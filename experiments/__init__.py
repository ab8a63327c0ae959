"""Experiments that docs rest on. What scripts found that are no longer kept is in docs/experiments.md."""
