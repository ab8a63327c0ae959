"""The method: arrays in, arrays out. No dagster, no zarr, no file formats.

Reading order: `method`, which puts all steps together; then the steps: bold, surface,
features.autoencoder, features.training, connectivity.correlation, connectivity.smoothing,
connectivity.thresholding, connectivity.encoding, parcellation.factorization,
parcellation.spectral, parcellation.clustering, parcellation.sweep, parcellation.selection; and
what their results are worth: evidence.measures, evidence.stability, evidence.nulls,
evidence.simulation, evidence.competitors.
"""
