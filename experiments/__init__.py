"""Experiments that docs rest on; what others found, that are gone, is in docs/experiments.md."""
