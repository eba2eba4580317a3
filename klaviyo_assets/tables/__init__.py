"""Shape: a stream becomes an Arrow schema, the bytes of a page a record batch.

The hot path of the project, and pure: no clock, no disk, no request. What belongs here: reading
Klaviyo's JSON. What does not: asking for it (`api`) and keeping it (`lake`).
"""
