"""Reports from the sandbox to the lake, below Dagster."""
