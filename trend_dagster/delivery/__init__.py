"""What leaves the platform: figures, the report, maps for other programs."""
