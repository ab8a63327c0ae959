"""From block matrices to networks: factorisation, clustering, the sweep, the choice."""
