"""Settings that cannot be used: refused before the first request, with what is allowed."""

from dataclasses import replace

import dagster as dg
import pytest

from klaviyo_assets.definitions import build_defs
from klaviyo_assets.defs.resources import KlaviyoResource
from klaviyo_assets.settings import read_settings
from klaviyo_assets_tests.e2e.home import Home, asset_key
from klaviyo_assets_tests.e2e.run_log import RunResult

BAD = {
    "automation": ("on", "off or recommended"),
    "base_url": ("http://klaviyo.example.com", "https"),
    "disable_predictive_analytics": ("maybe", "true or false"),
    "exclude_columns": ("profiles.birthday", "profiles has a column birthday"),
    "folder_mode": ("777", "5 or 0 for others, who may read at most"),
    "hash_columns": ("events.event_properties", "is not text"),
    "json_keys": ("profiles.email:domain", "is not JSON"),
    "event_metric_ids": ("Placed Order", "metric ids"),
    "late_events_days": ("a week", "a whole number of days"),
    "lookback_days": ("-1", "from 0 to 36500"),
    "rate_limit_scale": ("0", "a number above 0"),
    "rate_limit_share": ("1.5", "up to 1"),
    "report_start_date": ("yesterday", "YYYY-MM-DD"),
    "revision": ("2026-10-16", "2026-10-15"),
    "state_dir": ("gs://bucket/state", "a folder of this machine"),
    "start_date": ("2026-13-01", "YYYY-MM-DD"),
    "timezone": ("Mars/Olympus", "IANA"),
}
"""A value that cannot be used, and what the refusal must say is allowed."""

BAD_KEYS = {
    "blank": ("pk_0123456789 abcdef", "holds a blank or a line end"),
    "line end": ("pk_0123456789abcdef\nX-Header: 1", "holds a blank or a line end"),
    "public": ("AbC123", "holds the public key"),
    "nonsense": ("secret-0123456789", "has not the form of a private key"),
    "empty": ("", "is empty"),
}


def synced_by(home: Home, defs: dg.Definitions, *streams: str, **resources: object) -> RunResult:
    """Materialize streams of a code location in a home; `resources` take the place of its own."""
    return home.execute(
        lambda instance: dg.materialize(
            list(defs.assets or ()),  # pyright: ignore[reportArgumentType]
            selection=[*map(asset_key, streams)],
            instance=instance,
            resources={**(defs.resources or {}), **resources},
            raise_on_error=False,
        )
    )


@pytest.mark.parametrize("setting", BAD)
def test_a_bad_setting_is_refused_before_the_first_request(home: Home, setting: str) -> None:
    """The failure names variable, value and allowed values; no request is sent."""
    value, allowed = BAD[setting]
    home.settings[f"KLAVIYO_{setting.upper()}"] = value
    run = home.sync("lists")
    assert f"KLAVIYO_{setting.upper()}" in run.failures["lists"]
    assert value in run.failures["lists"]
    assert allowed in run.failures["lists"]
    assert run.attempts["lists"] == 1
    assert home.account.request_counts().total() == 0
    assert not home.data_dir.exists()


def test_all_bad_settings_are_named_at_once(home: Home) -> None:
    """One failure lists all invalid settings."""
    run = home.sync("lists", start_date="soon", lookback_days="some")
    assert "KLAVIYO_START_DATE='soon'" in run.failures["lists"]
    assert "KLAVIYO_LOOKBACK_DAYS='some'" in run.failures["lists"]


@pytest.mark.parametrize("case", BAD_KEYS)
def test_a_key_of_the_wrong_form_is_refused_without_being_shown(home: Home, case: str) -> None:
    """A key that cannot be one is refused before the first request, and never quoted."""
    key, sentence = BAD_KEYS[case]
    run = home.sync("lists", api_key=key)
    assert f"KLAVIYO_API_KEY {sentence}" in run.failures["lists"]
    message = "\n".join([run.failures["lists"], run.warnings])
    assert not key or key not in message
    assert home.account.request_counts().total() == 0


def test_settings_written_in_python_are_checked_like_variables(home: Home) -> None:
    """An invalid setting in Python code is refused under the name of its variable."""
    defs = home.load_definitions()
    settings, _ = read_settings(home.variables)
    klaviyo = KlaviyoResource(settings=replace(settings, rate_limit_share=7.0))
    run = synced_by(home, defs, "lists", klaviyo=klaviyo)
    assert "KLAVIYO_RATE_LIMIT_SHARE='7.0' cannot be used" in run.failures["lists"]
    assert home.account.request_counts().total() == 0


@pytest.mark.parametrize("salt", [None, "pepper"])
def test_hashing_without_a_secret_is_refused(
    home: Home, salt: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hash without a long salt is found by trying: refused by its variable, never quoted."""
    monkeypatch.delenv("KLAVIYO_HASH_SALT", raising=False)
    if salt is not None:
        monkeypatch.setenv("KLAVIYO_HASH_SALT", salt)
    run = home.sync("profiles", hash_columns="profiles.email")
    assert "KLAVIYO_HASH_SALT cannot be used" in run.failures["profiles"]
    assert "at least 16 characters" in run.failures["profiles"]
    assert "pepper" not in "\n".join([run.failures["profiles"], run.warnings])
    assert home.account.request_counts().total() == 0


@pytest.mark.parametrize("variable", ["KLAVIYO_API_KEY", "SECOND_ACCOUNT_KEY"])
def test_without_a_key_the_variable_is_named(home: Home, variable: str) -> None:
    """A run without the key's variable fails with its name, once a stream; no request is sent.

    The code location loads without it, and the run does not need it to begin.
    """
    home.has_key = False
    defs = build_defs(*read_settings(home.variables), api_key=dg.EnvVar(variable))
    dg.Definitions.validate_loadable(defs)
    run = synced_by(home, defs, "lists", "segments")
    assert set(run.failures) == {"lists", "segments"}
    for message in run.failures.values():
        assert f"{variable} is not set" in message
        assert f"export {variable}=pk_" in message
    assert home.account.request_counts().total() == 0


def test_a_second_account_has_a_variable_of_its_own(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key comes from the variable given to `build_defs`, whatever KLAVIYO_API_KEY holds."""
    monkeypatch.setenv("SECOND_ACCOUNT_KEY", home.account.key)
    home.settings["KLAVIYO_API_KEY"] = "pk_of_nobody_here_00000"
    defs = build_defs(*read_settings(home.variables), api_key=dg.EnvVar("SECOND_ACCOUNT_KEY"))
    run = synced_by(home, defs, "lists")
    assert run.success, run.failures
    assert sorted(home.ids("lists")) == sorted(home.account.true_ids("lists"))


def test_a_code_location_loads_whatever_the_settings(home: Home) -> None:
    """Bad settings hide nothing: the code location loads with every asset, job and schedule."""
    good = shown_by(home.load_definitions())
    home.settings |= {f"KLAVIYO_{name.upper()}": value for name, (value, _) in BAD.items()}
    defs = home.load_definitions()
    dg.Definitions.validate_loadable(defs)
    assert shown_by(defs) == good


def shown_by(defs: dg.Definitions) -> dict[str, set[str]]:
    """Return the names of what a code location brings, by kind."""
    repository = defs.get_repository_def()
    return {
        "assets": {key.to_user_string() for key in repository.asset_graph.get_all_asset_keys()},
        "jobs": {job.name for job in repository.get_all_jobs()},
        "schedules": {schedule.name for schedule in repository.schedule_defs},
        "sensors": {sensor.name for sensor in repository.sensor_defs},
    }
