"""Show: the only room that knows Dagster, one module per Dagster concept."""
