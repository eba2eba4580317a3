"""Compares what is stored with Klaviyo's own counts."""
