"""The values that all rooms share: streams, columns, windows, reports, privacy rules, progress."""
