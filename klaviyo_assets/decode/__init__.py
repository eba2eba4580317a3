"""Turns the bodies of responses into Arrow record batches."""
