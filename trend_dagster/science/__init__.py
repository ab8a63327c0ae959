"""The method: arrays in, arrays out. No dagster, no zarr, no file formats.

Reading order: bold, autoencoder, training, correlation, geodesic, block_matrix, factorization,
clustering, sweep, selection, evaluation, simulation.
"""
