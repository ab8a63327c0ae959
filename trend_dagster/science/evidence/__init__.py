"""What a result is worth: measures, stability, nulls, simulation, competitors."""
