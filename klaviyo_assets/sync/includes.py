"""What `include` asks for and the key may not read: it costs its own columns, not the stream.

What belongs here: what of `include` is given up in one sync, and what is said of it. What does not:
how the request is written (`api.protocol`), refusals of the stream itself (`defs.assets`).
"""

from collections.abc import Callable
from threading import Lock
from typing import TypeVar

from klaviyo_assets.api.exchange import Request
from klaviyo_assets.api.protocol import included_in, without_included
from klaviyo_assets.errors import MissingScopeError
from klaviyo_assets.model.column import FirstIncludedId, Included, RelatedIds
from klaviyo_assets.model.stream import INCLUDED_SCOPES, Stream

Found = TypeVar("Found")


class RefusedIncludes:
    """The parts of a stream's `include` that this key was refused; safe for threads."""

    def __init__(self, stream: Stream, say: Callable[[str], None]) -> None:
        """Know of none; `say` takes a sentence once others have been read without them."""
        self._stream, self._say = stream, say
        self._lock = Lock()
        self._refused = frozenset[str]()
        self._untold = False

    def read(self, request: Request, ask: Callable[[Request], Found]) -> Found:
        """Return what `ask` brings for the request, without what the key may not read of it.

        Raises:
            MissingScopeError: it is the stream itself that the key may not read; and all of `ask`.
        """
        while True:
            sent = without_included(request, self._refused) if self._refused else request
            try:
                found = ask(sent)
            except MissingScopeError as error:
                if not self._note(sent, error):
                    raise
            else:
                self._tell()
                return found

    def _note(self, sent: Request, error: MissingScopeError) -> bool:
        """Note what a refusal is about; tell whether the request is worth sending without it.

        Where Klaviyo names no scope, all is given up that needs another one than the stream does.
        """
        own = set(self._stream.scopes)
        if own.intersection(error.scopes):
            return False
        refused = {
            part
            for part in included_in(sent)
            if (scope := INCLUDED_SCOPES.get(part)) not in own
            and (scope in error.scopes or not error.scopes)
        }
        with self._lock:
            self._untold = self._untold or not refused <= self._refused
            self._refused |= refused
        return bool(refused)

    def _tell(self) -> None:
        """Say what is missing from the rows, once: a page without it has come."""
        if not self._untold:
            return
        with self._lock:
            refused, is_told = self._refused, not self._untold
            self._untold = False
        if is_told:
            return
        scopes = sorted({INCLUDED_SCOPES.get(each) or each for each in refused})
        columns = [each.name for each in self._stream.columns if _comes_with(each.source, refused)]
        missing = f"{', '.join(columns)} may be NULL in what was read" if columns else "no column"
        self._say(
            f"{self._stream.name}: the key lacks the scope {' and '.join(scopes)}, so "
            f"{' and '.join(sorted(refused))} is not included and {missing}; all else is read. "
            "Make a key with it, then materialize the asset once with sync_mode "
            "full_refresh_overwrite"
        )


def _comes_with(place: object, refused: frozenset[str]) -> bool:
    """Tell whether Klaviyo sends a column's values only with one of these parts of `include`."""
    is_included = isinstance(place, Included | FirstIncludedId | RelatedIds)
    return is_included and place.relationship in refused
