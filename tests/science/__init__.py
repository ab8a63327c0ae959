"""Tests of the science layer."""
