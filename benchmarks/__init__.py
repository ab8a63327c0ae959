"""Claims of speed and memory, one module each; every figure is a ratio measured in one run."""
