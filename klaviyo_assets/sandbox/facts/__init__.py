"""The published facts of each operation that the sandbox serves, as values.

What Klaviyo's API reference states (path, scopes, rate tier, page sizes, filters, sorts, includes,
field names, schemas) belongs here; what the sandbox does about it does not. `publish.py` writes
`published.json` from lists of endpoints, for the revisions 2026-07-15 and 2026-10-15.
"""
