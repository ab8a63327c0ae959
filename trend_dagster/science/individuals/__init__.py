"""Persons: where each newborn has the networks of the cohort, and what follows from that."""
