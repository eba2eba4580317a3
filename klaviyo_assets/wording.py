"""Numbers in sentences: a count with its singular or plural, a time as people say it."""

FEW, MINUTE, HOUR = 10, 60, 3600


def quantity(number: int, noun: str, *, plural: str | None = None) -> str:
    """Return a number with what it counts: `1 row`, `2,000 rows`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def duration(seconds: float) -> str:
    """Return a time as people say it: `4.2 s`, `48 s`, `2 min 5 s`, `5 h 12 min`."""
    whole = round(seconds)
    if whole < MINUTE:
        return f"{seconds:.1f} s" if whole < FEW else f"{whole} s"
    if whole < HOUR:
        return f"{whole // MINUTE} min {whole % MINUTE} s"
    return f"{whole // HOUR} h {whole % HOUR // MINUTE} min"
