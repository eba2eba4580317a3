"""Syncs streams: plans what to read, reads it page by page and writes it commit by commit."""
