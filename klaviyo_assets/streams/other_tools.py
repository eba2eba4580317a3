"""Where other tools have our streams: Airbyte, Fivetran, and what follows Klaviyo's own names."""

from klaviyo_assets.model.view import ComparedStream


def compared(
    stream: str, *their_tables: str, time: str = "created", their_time: str = ""
) -> ComparedStream:
    """Return a stream under its own name and the names of others."""
    times = tuple(dict.fromkeys(filter(None, (time, "created", their_time))))
    return ComparedStream(
        stream=stream,
        time=time,
        their_tables=(stream, *their_tables),
        their_times=(*times, *(f"attributes.{each}" for each in times)),
    )


COMPARED_STREAMS = (
    compared("events", "event", time="datetime", their_time="timestamp"),
    compared("profiles", "profile", "person", "people"),
    compared("campaigns", "campaign", time="created_at"),
    compared("flows", "flow"),
    compared("lists", "list"),
    compared("segments", "segment"),
    compared("metrics", "metric"),
    compared("email_templates", "templates", "email_template", "template"),
    compared("global_exclusions", "global_exclusion"),
)
"""What `compare` looks for; reports have no ids."""
