"""Tests, laid out as the package is."""

import os

# Tests run side by side, and so do their processes: threads of each would wait for those of others.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
