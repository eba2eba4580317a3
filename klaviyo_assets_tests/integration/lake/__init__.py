"""The lake on a real disk, with real processes that are really killed."""
