"""Claims as commands: every figure beside its competitors and its null.

What belongs here: whole ways from BOLD to networks, on cohorts, with figures that are kept. What
does not: measures, nulls and competitors themselves (``science``), and how a table is printed
(``cli``).
"""
