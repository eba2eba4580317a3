"""The account behind a key: who it is, what it is called in the lake, and its metrics."""
