"""Arrays and tables -> pictures. No science beyond what a picture needs, no Dagster."""
