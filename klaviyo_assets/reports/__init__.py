"""Plans and fetches report partitions within the daily quota."""
