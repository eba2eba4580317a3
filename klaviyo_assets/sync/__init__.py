"""The river: mark, windows, pages, record batches, receipts."""
