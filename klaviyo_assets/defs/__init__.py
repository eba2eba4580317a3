"""Show: the only room that knows Dagster, one module per Dagster concept.

What belongs here: assets, the IO manager, resources, cursors in asset metadata, jobs and schedules.
What does not: what Klaviyo says (`api`, `streams`), what a sync does (`sync`), files (`lake`).
"""

import os

# Read once, when Arrow is first imported, which is below. Its own allocator keeps what writing
# files once took: with 500,000 events 438 MiB resident and growing, 335 and flat with the system's.
# Source: https://arrow.apache.org/docs/cpp/env_vars.html
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
