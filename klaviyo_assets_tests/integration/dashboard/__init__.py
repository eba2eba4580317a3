"""The marketing overview, asked of a shop that is made by hand."""
