"""Whose lake it is, where a key may not know its account: a stand-in is taken over for good.

What belongs here: the two proofs that two names are one account, and what follows. What does not:
asking for the account (`account`), the note in the lake (`lake.identity`).

A key without `accounts:read` leaves its hash as the account's name. The same key proves that it is
the one; another key proves it by the ids of what is stored: Klaviyo gives each to one account.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import cast

from klaviyo_assets.api.client import Answer
from klaviyo_assets.api.protocol import first_request
from klaviyo_assets.api.refusals import member
from klaviyo_assets.errors import RefusedStreamError, WrongAccountError
from klaviyo_assets.lake import STAND_IN, Lake
from klaviyo_assets.model.stream import Collection, Stream
from klaviyo_assets.model.window import Window
from klaviyo_assets.sync.account import Asking, account_behind, stand_in

_ASKED_FOR_IDS = (
    "metrics",
    "lists",
    "segments",
    "flows",
    "campaigns",
    "email_templates",
    "profiles",
    "events",
)
"""Streams whose ids prove an account, the smallest and steadiest tables first."""


def account_in(
    lake: Lake,
    asking: Asking,
    account: str,
    *,
    streams: Mapping[str, Stream],
    say: Callable[[str], None],
) -> str:
    """Return the name that the key's account goes by in the lake, a stand-in taken over if proven.

    `account` is what the key is known by, `streams` are all there are by name. Sends requests only
    where names differ and one of them is a stand-in; without a proof `account` is returned, and the
    lake refuses it.

    Raises:
        KlaviyoAssetsError: Klaviyo cannot be reached, or refuses the key.
    """
    stored = lake.accounts()
    name = lake.identity().name_of(account)
    if stored <= {name} or len(stored) > 1:
        return name
    (former,) = stored
    own = lake.identity().name_of(stand_in(asking.key_name))
    if not (is_stand_in(former) or is_stand_in(name)):
        return name
    if former != own and not has_the_same_ids(lake, asking, streams):
        return name
    return take_over(lake, former, account, say=say)


def adopt(
    lake: Lake,
    asking: Asking,
    *,
    streams: Mapping[str, Stream],
    confirm: Callable[[str], bool],
    say: Callable[[str], None],
) -> bool:
    """Let the lake's account go by the name of the key's; tell whether it does now.

    `confirm` is asked where nothing proves that the two are one.

    Raises:
        WrongAccountError: the lake holds another account's data, or that of several.
        KlaviyoAssetsError: Klaviyo cannot be reached, or refuses the key.
    """
    account = account_in(lake, asking, account_behind(asking, say=say), streams=streams, say=say)
    stored = lake.accounts()
    if len(stored) > 1:
        raise WrongAccountError(
            f"{lake.root} holds tables of several accounts: {', '.join(sorted(stored))}"
        )
    if stored <= {account}:
        say(f"the account goes by {account} in {lake.root}: there is nothing to rename")
        return True
    (former,) = stored
    if not (is_stand_in(former) or is_stand_in(account)):
        lake.refuse_foreign(account)
    if not confirm(
        f"{lake.root} holds account {former}, and the key belongs to account {account}. The ids of "
        "what is stored do not prove that they are one; if they are two, the next sync mixes them."
    ):
        return False
    take_over(lake, former, account, say=say)
    return True


def take_over(lake: Lake, former: str, account: str, *, say: Callable[[str], None]) -> str:
    """Note that two names are one account; return the one that stays: an id before a stand-in."""
    stays, goes = (former, account) if is_stand_in(account) else (account, former)
    if lake.call_account(stays, also=(goes,)):
        say(f"{lake.root}: {goes} and {stays} are one account, which goes by {stays} from now on")
    return stays


def is_stand_in(account: str) -> bool:
    """Tell whether a name stands for an account whose id was not known."""
    return account.startswith(STAND_IN)


def has_the_same_ids(lake: Lake, asking: Asking, streams: Mapping[str, Stream]) -> bool:
    """Tell whether what Klaviyo shows to the key is what the lake holds: most ids of a first page.

    Streams that are empty, or that the key may not read, prove nothing.

    Raises:
        KlaviyoAssetsError: Klaviyo cannot be reached, or refuses the key.
    """
    for stream in _stored(lake, streams):
        slices = cast("Collection", stream.source).slices
        request = first_request(stream, slices[0], Window(), base_url=asking.base_url)
        try:
            shown = asking.client.read(request, _ids_in, stream=stream.name)
        except RefusedStreamError:
            continue
        if shown:
            stored = set(cast("list[str]", lake.keys(stream.name, ["id"])["id"].to_pylist()))
            return len(shown & stored) * 2 > len(shown)
    return False


def _stored(lake: Lake, streams: Mapping[str, Stream]) -> Iterator[Stream]:
    """Yield the streams that are stored and have rows."""
    for name in _ASKED_FOR_IDS:
        state = lake.state(name)
        if state is not None and state.rows:
            yield streams[name]


def _ids_in(answer: Answer) -> set[str]:
    try:
        records = member(json.loads(answer.body), "data")
    except (ValueError, RecursionError):
        return set()
    listed = cast("list[object]", records) if isinstance(records, list) else []
    return {found for each in listed if isinstance(found := member(each, "id"), str)}
