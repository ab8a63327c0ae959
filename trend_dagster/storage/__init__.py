"""Bytes: versioned zarr stores, input files, the workbook. No science, no dagster."""
