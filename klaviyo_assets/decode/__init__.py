"""Turns bodies of responses into Arrow record batches."""
