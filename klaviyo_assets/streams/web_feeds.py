"""Web feeds: data that messages fetch. Klaviyo API reference, section "Web Feeds"."""

from klaviyo_assets.model.column import Column
from klaviyo_assets.model.stream import TIER_XS, Collection, Cursor, Stream

WEB_FEEDS = Stream(
    name="web_feeds",
    description="One row per web feed.",
    section="Web Feeds",
    source=Collection(path="/api/web-feeds", page_size=20),
    cursor=Cursor(column="updated", field="updated"),
    tier=TIER_XS,
    scopes=("web-feeds:read",),
    is_opt_in=True,
    has_soft_deletes=True,
    columns=(
        Column("name", "The feed's name."),
        Column("url", "Where the data come from; may hold a token."),
        Column("request_method", "How they are asked for: get or post."),
        Column("content_type", "What comes: json or xml."),
        Column("created", "When it was created.", "timestamp"),
        Column("updated", "When it last changed.", "timestamp"),
        Column("status", "Whether the last fetch went well: ok, refreshing, disabled, ..."),
    ),
)
