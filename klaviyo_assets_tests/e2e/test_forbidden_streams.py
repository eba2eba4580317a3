"""What a 403 says decides: a missing scope or a plan skips, anything else is a failure."""

import pytest

from klaviyo_assets_tests.e2e.conftest import StartHome
from klaviyo_assets_tests.e2e.home import Home

LISTS = {"path": "/api/lists"}


@pytest.mark.parametrize(
    "words",
    [
        "Your account has been suspended. Contact support.",
        "Requests from this network are not allowed.",
        "Your plan's payment is past due.",
        "A refusal that nobody has met yet.",
    ],
)
def test_a_refusal_that_is_no_scope_is_a_failure_with_its_words(home: Home, words: str) -> None:
    """A 403 for another reason than a scope fails after one request, with Klaviyo's sentence."""
    with home.account.inject_fault("error", match=LISTS, status=403, detail=words):
        run = home.sync("lists", "segments")
    assert list(run.failures) == ["lists"]
    assert words.rstrip(".") in run.failures["lists"]
    assert "lacks" not in run.failures["lists"]
    assert run.attempts["lists"] == 1
    assert home.account.request_counts()["/api/lists"] == 1
    assert sorted(home.ids("segments")) == sorted(home.account.true_ids("segments"))


@pytest.mark.parametrize(
    "words",
    ["This feature needs the Advanced plan.", "Entitlement to create object type not found."],
)
def test_a_plan_gate_skips_the_stream_with_its_words(home: Home, words: str) -> None:
    """What the plan does not have is left out, green, in Klaviyo's words; no scope is named."""
    with home.account.inject_fault("error", match=LISTS, status=403, detail=words):
        run = home.sync("lists")
    assert run.success
    assert "lists" not in run.materializations
    assert f'lists is skipped: the account\'s plan does not have it. Klaviyo says: "{words}"' in (
        run.warnings
    )
    (seen,) = run.observations["lists"]
    assert "klaviyo/missing_scope" not in seen
    assert seen["klaviyo/refusal"] == words


@pytest.mark.parametrize(
    "words",
    [
        "Your API key is missing required scopes: lists:read",
        "You do not have permission to perform this action.",
    ],
)
def test_rows_that_are_no_longer_renewed_are_reported(home: Home, words: str) -> None:
    """A stream with rows that is refused now: nothing fresh, a warning with them, yellow checks."""
    home.sync("lists")
    with home.account.inject_fault("error", match=LISTS, status=403, detail=words):
        run = home.sync("lists")
    assert run.success
    assert "lists" not in run.materializations
    assert "the key lacks the scope lists:read" in run.warnings
    assert words in run.warnings
    assert f"Its {len(home.ids('lists'))} rows stay as they are and grow old" in run.warnings
    (seen,) = run.observations["lists"]
    assert seen["klaviyo/missing_scope"] == "lists:read"
    assert seen["klaviyo/rows_not_updated"] == len(home.ids("lists"))
    colours = {
        verdict.colour for (stream, _), verdict in run.check_results.items() if stream == "lists"
    }
    assert colours == {"yellow"}


@pytest.mark.usefixtures("fast_retries")
def test_a_gateways_refusal_is_retried(home: Home) -> None:
    """JSON that is not Klaviyo's says nothing of scopes: once is waited out, for ever fails."""
    match = {"path": "/api/lists", "nth": 1}
    with home.account.inject_fault("error", match=match, status=403, body='{"message": "blocked"}'):
        run = home.sync("lists")
    assert run.success
    assert sorted(home.ids("lists")) == sorted(home.account.true_ids("lists"))
    with home.account.inject_fault("error", match=LISTS, status=403, body='{"message": "blocked"}'):
        run = home.sync("lists")
    assert "gateway" in run.failures["lists"]


def test_a_refusal_on_the_way_is_a_failure(open_home: StartHome) -> None:
    """A stream that has begun is not skipped: what came is stored, the rest is missing, and red."""
    home = open_home(events=3_000, future_events=0)
    match = {"path": "/api/events", "from": 2}
    words = "Your API key is missing required scopes: events:read"
    with home.account.inject_fault("error", match=match, status=403, detail=words):
        run = home.sync("events")
    assert "events:read" in run.failures["events"]
    assert home.sync("events").success
    assert sorted(home.ids("events")) == sorted(home.account.true_ids("events"))


@pytest.mark.parametrize(
    ("stream", "part", "scope", "column"),
    [
        ("lists", "tags", "tags:read", "tag_ids"),
        ("lists", "flow-triggers", "flows:read", "flow_trigger_ids"),
        ("campaigns", "tags", "tags:read", "tag_ids"),
        ("events", "metric", "metrics:read", None),
    ],
)
def test_an_include_that_wants_another_scope_costs_its_columns(
    home: Home, stream: str, part: str, scope: str, column: str | None
) -> None:
    """All records come; what was included is not, and the columns, scope and way back are named."""
    match = {"path": f"/api/{stream}", "query": part}
    words = f"Your API key is missing required scopes: {scope}"
    with home.account.inject_fault("error", match=match, status=403, detail=words):
        run = home.sync(stream)
    assert run.success
    assert sorted(home.ids(stream)) == sorted(home.account.true_ids(stream))
    assert f"the key lacks the scope {scope}" in run.warnings
    assert run.warnings.count("is not included") == 1
    if column is not None:
        assert f"{column} may be NULL" in run.warnings
        assert home.query(f"SELECT count({column}) FROM klaviyo.{stream}") == [(0,)]
    without = home.query("SELECT id, metric_id FROM events ORDER BY id") if column is None else []
    config = {"sync_mode": "full_refresh_overwrite"}
    assert home.sync(stream, config=config).warnings == ""
    if column is None:
        assert home.query("SELECT id, metric_id FROM events ORDER BY id") == without
    assert sorted(home.ids(stream)) == sorted(home.account.true_ids(stream))


def test_a_refusal_without_a_scope_tries_the_stream_alone(home: Home) -> None:
    """Where Klaviyo names none, the stream is tried without what it includes."""
    words = "You do not have permission to perform this action."
    match = {"path": "/api/lists", "query": "include="}
    with home.account.inject_fault("error", match=match, status=403, detail=words):
        run = home.sync("lists")
    assert "flow-triggers and tags is not included" in run.warnings
    assert sorted(home.ids("lists")) == sorted(home.account.true_ids("lists"))
