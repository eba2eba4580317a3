"""The lake's rules that need no disk."""
