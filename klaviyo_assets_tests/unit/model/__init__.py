"""The words: what they refuse, and what they work out."""
