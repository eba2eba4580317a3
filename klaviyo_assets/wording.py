"""Formats numbers for sentences: a count with its noun, a duration in units people use."""

FEW_SECONDS, MINUTE_SECONDS, HOUR_SECONDS = 10, 60, 3600


def format_quantity(number: int, noun: str, *, plural: str | None = None) -> str:
    """Return a number with what it counts: `1 row`, `2,000 rows`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def format_seconds(seconds: float) -> str:
    """Return a duration for people: `4.2 s`, `48 s`, `2 min 5 s`, `5 h 12 min`."""
    whole = round(seconds)
    if whole < MINUTE_SECONDS:
        return f"{seconds:.1f} s" if whole < FEW_SECONDS else f"{whole} s"
    if whole < HOUR_SECONDS:
        return f"{whole // MINUTE_SECONDS} min {whole % MINUTE_SECONDS} s"
    return f"{whole // HOUR_SECONDS} h {whole % HOUR_SECONDS // MINUTE_SECONDS} min"
