"""What represents a vertex: the autoencoder, its settings and its training."""
