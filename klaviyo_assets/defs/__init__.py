"""Show: the only room that knows Dagster, one module per Dagster concept.

What belongs here: assets, the IO manager, resources, cursors in asset metadata, jobs and schedules.
What does not: what Klaviyo says (`api`, `streams`), what a sync does (`sync`), files (`lake`).
"""
