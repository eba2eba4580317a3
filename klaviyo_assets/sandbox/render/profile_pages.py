"""Pages of profiles as bytes, from pools of ready JSON.

Profiles that a test changed, and pages with sparse fields or includes, go through Python objects.
"""

from klaviyo_assets.sandbox.json_types import dumps
from klaviyo_assets.sandbox.render.resources import record_url, relationships
from klaviyo_assets.sandbox.shop import consents, people
from klaviyo_assets.sandbox.shop.profiles import ProfileShelf


class ProfilePages:
    """Renders profiles; the pools' JSON is made once, the own parts of each profile each time."""

    def __init__(self, shelf: ProfileShelf) -> None:
        """Take the shelf and write its pools as JSON."""
        self.shelf = shelf
        self.consents = [dumps(each) for each in shelf.consents]
        self.locations = [dumps(each) for each in shelf.locations]
        self.properties = [dumps(each) for each in shelf.properties]
        self.predictions = [dumps(each) for each in shelf.predictions]

    def rows(self, shown: list[int], *, origin: str, asked: frozenset[str]) -> list[bytes]:
        """Profiles in JSON, with the additional fields asked for."""
        return [self.row(k, origin=origin, asked=asked) for k in shown]

    def row(self, ordinal: int, *, origin: str, asked: frozenset[str]) -> bytes:
        """One profile."""
        shelf = self.shelf
        attributes = shelf.attributes(ordinal)
        changed = shelf.changes.get(ordinal, {})
        ready = {
            "location": self.locations[shelf.part(ordinal, 34, people.POOL)],
            "properties": self.properties[shelf.part(ordinal, 40, people.POOL)],
            "subscriptions": self.consents[shelf.part(ordinal, 8, consents.POOL)],
            "predictive_analytics": self.predictions[shelf.part(ordinal, 46, people.POOL)],
        }
        parts: list[bytes] = []
        for name, made in ready.items():
            value = attributes.pop(name)
            hidden = name in {"subscriptions", "predictive_analytics"} and name not in asked
            written = b"null" if hidden else dumps(value) if name in changed else made
            parts.append(b'"' + name.encode() + b'":' + written)
        record_id = shelf.id_of(ordinal)
        url = record_url(origin, "profile", record_id)
        links = relationships(shelf.links(ordinal), kind="profile", url=url, opened=())
        return b'{"type":"profile","id":"%b","attributes":%b,%b},"relationships":%b,"links":%b}' % (
            record_id.encode(),
            dumps(attributes)[:-1],
            b",".join(parts),
            dumps(links),
            dumps({"self": url}),
        )
