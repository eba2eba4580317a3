"""The proof: real Dagster runs, over HTTP, into real files, against the sandbox."""
