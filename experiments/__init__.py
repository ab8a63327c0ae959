"""Experiments that docs rest on. What others found, not kept here, is in docs/experiments.md."""
