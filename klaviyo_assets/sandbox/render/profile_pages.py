"""Pages of profiles as bytes, from pools of ready JSON.

Profiles that a test changed, and pages with sparse fields or includes, go through Python objects.
"""

from klaviyo_assets.sandbox.json_types import JsonObject, dumps
from klaviyo_assets.sandbox.render.resources import record_url, relationships
from klaviyo_assets.sandbox.shop.profiles import POOL_SHIFTS, ProfileShelf
from klaviyo_assets.sandbox.shop.seeds import mix

# Null until asked for.
HIDDEN = frozenset({"subscriptions", "predictive_analytics"})


class ProfilePages:
    """Renders profiles; the pools' JSON is made once, the own parts of each profile each time."""

    def __init__(self, shelf: ProfileShelf) -> None:
        """Take the shelf and write its pools as JSON."""
        self.shelf = shelf
        self.pools = [
            (shift, members(name, shelf.pools[name])) for name, shift in POOL_SHIFTS.items()
        ]

    def rows(self, shown: list[int], *, origin: str, asked: frozenset[str]) -> list[bytes]:
        """Profiles in JSON, with the additional fields asked for."""
        shelf = self.shelf
        mark = "@id@"
        url = record_url(origin, "profile", mark)
        links = relationships(shelf.links(0), kind="profile", url=url, opened=())
        tail = dumps({"relationships": links, "links": {"self": url}})[1:].split(mark.encode())
        found: list[bytes] = []
        for ordinal in shown:
            record_id = shelf.id_of(ordinal).encode()
            attributes = self.attributes(ordinal, asked)
            head = b'{"type":"profile","id":"' + record_id + b'","attributes":{'
            found.append(head + attributes + b"}," + record_id.join(tail))
        return found

    def attributes(self, ordinal: int, asked: frozenset[str]) -> bytes:
        """The members of `attributes` in JSON, without the braces."""
        shelf = self.shelf
        if ordinal in shelf.changes:
            attributes = shelf.attributes(ordinal)
            for name in HIDDEN - asked:
                attributes[name] = None
            return dumps(attributes)[1:-1]
        own = dumps(shelf.own_attributes(ordinal))[1:-1]
        pools = self.pools if asked >= HIDDEN else self.pools_without(asked)
        bits = mix(shelf.seed, ordinal)
        ready = [pool[(bits >> shift) % len(pool)] for shift, pool in pools]
        return b",".join([own, *ready])

    def pools_without(self, asked: frozenset[str]) -> list[tuple[int, list[bytes]]]:
        """The pools with null for what is not asked for."""
        found = self.pools[:2]
        for name, pool in zip(
            ("subscriptions", "predictive_analytics"), self.pools[2:], strict=True
        ):
            found.append(pool if name in asked else (0, [f'"{name}":null'.encode()]))
        return found


def members(name: str, pool: list[JsonObject]) -> list[bytes]:
    """Entries of a pool as `"name":{...}`."""
    return [b'"' + name.encode() + b'":' + dumps(each) for each in pool]
