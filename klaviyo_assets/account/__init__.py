"""Finds the account that a key belongs to, its name in the lake, and its metrics."""
