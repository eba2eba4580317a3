"""The published facts of each operation that the sandbox serves, as values.

What Klaviyo's API reference states (path, scopes, rate tier, page sizes, filters, sorts, includes,
field names) belongs here; what the sandbox does about it does not.
Source: https://developers.klaviyo.com/en/reference, revision 2026-07-15.
"""
