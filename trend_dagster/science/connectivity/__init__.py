"""From features to block matrices: correlation, smoothing along the cortex, thresholding."""
