"""Which zone counts, given what Klaviyo says, what is remembered, and the setting."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from klaviyo_assets.api.rate_limiter import RateLimiter
from klaviyo_assets.errors import SettingError
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.reports.calendar import resolve_zone, resolve_zone_offline, zone_for_definitions
from klaviyo_assets.settings import Settings

NOW = datetime(2026, 11, 10, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("setting", "account_zone", "counts"),
    [
        (None, "America/New_York", "America/New_York"),
        ("America/New_York", "America/New_York", "America/New_York"),
        ("Europe/Copenhagen", "Arctic/Longyearbyen", "Europe/Copenhagen"),
        ("UTC", None, "UTC"),
        # This machine cannot compare: the setting is the only way on.
        ("Europe/Copenhagen", "Mars/Olympus", "Europe/Copenhagen"),
    ],
)
def test_the_zone_that_counts(setting: str | None, account_zone: str | None, counts: str) -> None:
    """The account's zone, or the setting's where both agree or the account's is unknown."""
    assert resolve_zone(Settings(timezone=setting), account_zone, now=NOW).key == counts


@pytest.mark.parametrize(
    ("setting", "account_zone", "words"),
    [
        ("UTC", "America/New_York", "Set KLAVIYO_TIMEZONE=America/New_York, or leave it out"),
        # The same offset today, and not in summer.
        ("Europe/London", "Africa/Abidjan", "Set KLAVIYO_TIMEZONE=Africa/Abidjan"),
        (None, None, "Klaviyo names no time zone for the account: set KLAVIYO_TIMEZONE"),
        (None, "Mars/Olympus", "Mars/Olympus is not known to this machine"),
    ],
)
def test_a_zone_that_cannot_count_is_refused(
    setting: str | None, account_zone: str | None, words: str
) -> None:
    """The sentence names the setting, and what to put there."""
    with pytest.raises(SettingError, match=words):
        resolve_zone(Settings(timezone=setting), account_zone, now=NOW)


def unwritable(place: Path) -> None:
    """Let the lake be a file."""
    (place / "lake").write_text("no folder", encoding="utf-8")


def rubbish_log(place: Path) -> None:
    """Let the log of accounts be no log."""
    log = place / "lake" / "accounts" / "_delta_log"
    log.mkdir(parents=True)
    (log / f"{0:020}.json").write_text("{]", encoding="utf-8")


@pytest.mark.parametrize("damage", [None, unwritable, rubbish_log])
def test_loading_goes_on_whatever_the_disk_holds(
    tmp_path: Path, damage: Callable[[Path], None] | None
) -> None:
    """Nothing, a file in the lake's place, a broken log: the zone is not known, and no more."""
    if damage is not None:
        damage(tmp_path)
    settings = Settings(state_dir=str(tmp_path / "state"))
    lake = Lake(tmp_path, clock=lambda: NOW)
    before = sorted(tmp_path.rglob("*"))
    assert zone_for_definitions(settings, lake) is None
    assert sorted(tmp_path.rglob("*")) == before
    assert zone_for_definitions(Settings(timezone="Asia/Tokyo"), lake) == "Asia/Tokyo"


def test_an_empty_lake_knows_no_zone(tmp_path: Path) -> None:
    """The lake alone says which account's facts in the state folder apply."""
    ledger = RateLimiter(tmp_path / "state", "AbC123")
    ledger.store_account_facts("k", account_id="AbC123", timezone="Asia/Tokyo")
    ledger.close()
    settings = Settings(state_dir=str(tmp_path / "state"))
    with pytest.raises(SettingError, match="materialize klaviyo/accounts first"):
        resolve_zone_offline(settings, Lake(tmp_path, clock=lambda: NOW), now=NOW)
