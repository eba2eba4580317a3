"""Which streams are assets, by KLAVIYO_STREAMS and by the revision of Klaviyo's API."""

from dataclasses import replace

import pytest

from klaviyo_assets.model.selection import (
    keeps_changes,
    selected_streams,
    selection_errors,
    shown_streams,
)
from klaviyo_assets.settings import SUPPORTED_REVISIONS, Settings
from klaviyo_assets.streams import DEFAULT_COLLECTIONS, DEFAULT_REPORTS, STREAMS

JULY, OCTOBER = SUPPORTED_REVISIONS


def settings_for(*streams: str, revision: str) -> Settings:
    """Return settings with these entries of KLAVIYO_STREAMS."""
    return replace(Settings(), streams=streams, revision=revision)


def test_the_default_set_is_that_of_the_default_revision() -> None:
    """Without a setting, all collections of the default and the reports are assets."""
    names = {each.name for each in (*DEFAULT_COLLECTIONS, *DEFAULT_REPORTS)}
    assert selected_streams(Settings(), STREAMS) == names


@pytest.mark.parametrize("revision", SUPPORTED_REVISIONS)
def test_all_means_what_the_revision_offers(revision: str) -> None:
    """A stream of another revision is no asset, nor is one that is made from it."""
    settings = settings_for("all", revision=revision)
    selected = selected_streams(settings, STREAMS)
    assert all(STREAMS[name].is_offered_at(revision) for name in selected)
    assert ("brand_colors" in selected) == (revision == OCTOBER)
    assert ("campaign_audiences" in selected) == (revision == OCTOBER)
    assert selection_errors(settings, STREAMS) == []


@pytest.mark.parametrize("entry", ["brand_colors", "brands"])
def test_a_stream_of_a_later_revision_is_refused_in_words(entry: str) -> None:
    """A stream, and a group of none but such streams, say since when they can be read."""
    settings = settings_for("default", entry, revision=JULY)
    (error,) = selection_errors(settings, STREAMS)
    assert str(error).startswith(
        f"KLAVIYO_STREAMS='{entry}' cannot be used at KLAVIYO_REVISION=2026-07-15: "
    )
    assert "can be read only at revisions since 2026-10-15." in str(error)
    assert selection_errors(replace(settings, revision=OCTOBER), STREAMS) == []


def test_what_needs_a_stream_of_another_revision_is_refused_with_its_name() -> None:
    """A view of messages says that it is the messages that cannot be read."""
    view = replace(STREAMS["campaign_variations"], since=None)
    streams = {**STREAMS, view.name: view}
    (error,) = selection_errors(settings_for(view.name, revision=JULY), streams)
    assert "campaign_variations needs campaign_messages, which can be read only" in str(error)


@pytest.mark.parametrize(
    ("revision", "first"), [(JULY, set[str]()), (OCTOBER, {"campaign_messages"})]
)
def test_what_a_relation_is_made_from_comes_with_it(revision: str, first: set[str]) -> None:
    """Campaigns are described by their messages since October, and by themselves before."""
    settings = settings_for("campaigns", revision=revision)
    assert selected_streams(settings, STREAMS) == {"campaigns"} | first


def test_an_unknown_entry_is_refused_with_its_likes() -> None:
    """A misspelt name is answered with the name that was meant."""
    (error,) = selection_errors(settings_for("brand_color", revision=OCTOBER), STREAMS)
    assert "there is no such stream or group. Did you mean brand_colors" in str(error)


def test_a_history_is_kept_of_assets_that_declare_its_columns() -> None:
    """KLAVIYO_HISTORY names streams, or `default` for each that can; without it there is none."""
    settings = replace(Settings(), history=("lists_detailed",))
    assert selection_errors(settings, STREAMS) == []
    assert keeps_changes(STREAMS["lists_detailed"], settings)
    assert not keeps_changes(STREAMS["profiles"], settings)
    assert not keeps_changes(STREAMS["profiles"], Settings())
    everything = replace(settings, history=("default",))
    assert selection_errors(everything, STREAMS) == []
    kept = {name for name, each in STREAMS.items() if keeps_changes(each, everything)}
    assert kept > {"profiles", "lists_detailed", "email_templates"}
    assert "events" not in kept


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("events", "changed rows are kept of billing_usage, email_templates, "),
        ("flow_definitions", "flow_definitions is no asset: name it in KLAVIYO_STREAMS too"),
    ],
)
def test_a_history_that_cannot_be_kept_is_refused_in_words(entry: str, reason: str) -> None:
    """An entry without history columns, or that is no asset, says what to do."""
    (error,) = selection_errors(replace(Settings(), history=(entry,)), STREAMS)
    assert str(error).startswith(f"KLAVIYO_HISTORY='{entry}' cannot be used: {reason}")


def test_views_that_are_off_are_not_shown() -> None:
    """A view of stored tables is shown where it is on from the start, or where it is named."""
    shown = shown_streams(Settings(), STREAMS)
    assert {"events_detailed", "segments_detailed"} <= shown.keys()
    assert "list_tags" not in shown
    assert "list_tags" in shown_streams(replace(Settings(), streams=("list_tags",)), STREAMS)


def test_a_name_of_both_means_the_stream() -> None:
    """`coupons` leaves out the codes of coupons, which cost a request for each coupon."""
    assert selected_streams(settings_for("coupons", revision=OCTOBER), STREAMS) == {"coupons"}
    group = selected_streams(settings_for("catalogs", revision=OCTOBER), STREAMS)
    assert {"catalog_items", "catalog_variants", "catalog_categories"} <= group
