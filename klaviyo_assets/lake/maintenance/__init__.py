"""Vacuum, erasure of people, and the search for what is left of them."""
