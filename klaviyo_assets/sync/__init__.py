"""The river: mark, windows, pages, record batches, receipts.

What belongs here: what to read (`plan`), reading it window by window (`walk`, `pool`), and handing
it to the lake commit by commit (`pull`, `details`). What does not: Klaviyo's rules (`api`), shapes
(`tables`), files (`lake`), Dagster (`defs`).
"""
