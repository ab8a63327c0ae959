"""Experiments that settings and decisions rest on; what they found is in docs/experiments.md."""
