"""The marketing overview: what is asked of the lake, and the page that answers."""
