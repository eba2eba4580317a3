"""The Delta log: reading snapshots, committing changes, our state in a commit."""
