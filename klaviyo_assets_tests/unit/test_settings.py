"""Settings mean what the contract says, and a bad one is refused in words."""

from dataclasses import fields
from datetime import UTC, date, datetime
from typing import Any

import pytest

from klaviyo_assets.model.stream import TIER_REPORT
from klaviyo_assets.settings import (
    MAX_REPORT_RESERVE,
    Settings,
    environment_variables,
    future_date_errors,
    read_settings,
    settings_to_environment,
    unknown_variables,
    variable_name,
)


def read(**variables: str) -> Settings:
    """Return the settings of an environment that has nothing wrong."""
    settings, refusals = read_settings(variables)
    assert refusals == ()
    return settings


def test_nothing_set_means_the_documented_defaults() -> None:
    """Without a variable every setting has the default of the contract."""
    assert read() == Settings(
        base_url="https://a.klaviyo.com",
        revision="2026-10-15",
        start_date=None,
        lookback_days=0,
        late_events_days=7,
        report_lookback_days=30,
        report_reserve=0,
        conversion_metric_ids=(),
        event_metric_ids=(),
        disable_predictive_analytics=False,
        exclude_columns=(),
        hash_columns=(),
        json_keys=(),
        timezone=None,
        report_start_date=None,
        data_dir="./data",
        folder_mode="",
        state_dir="",
        rate_limit_share=0.9,
        rate_limit_scale=1.0,
        automation="off",
        tune_process=True,
    )


@pytest.mark.parametrize(
    ("variable", "raw", "value"),
    [
        ("BASE_URL", "http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("REVISION", "2026-07-15", "2026-07-15"),
        ("START_DATE", "2026-01-31", date(2026, 1, 31)),
        ("LOOKBACK_DAYS", "3", 3),
        ("LATE_EVENTS_DAYS", "0", 0),
        ("REPORT_LOOKBACK_DAYS", "90", 90),
        ("REPORT_RESERVE", "224", 224),
        ("AUTOMATION", "off", "off"),
        ("AUTOMATION", "Recommended", "recommended"),
        ("CONVERSION_METRIC_IDS", "auto", ("auto",)),
        ("CONVERSION_METRIC_IDS", " all ", ()),
        ("CONVERSION_METRIC_IDS", "AbC123, all", ()),
        ("CONVERSION_METRIC_IDS", "ALL", ()),
        ("CONVERSION_METRIC_IDS", "Auto, ALLery", ("auto", "ALLery")),
        ("EVENT_METRIC_IDS", "all", ()),
        ("EVENT_METRIC_IDS", "auto", ("auto",)),
        ("MEMBERS_OF", "All", ()),
        ("EVENT_METRIC_IDS", " AbC123 ,, XyZ789,AbC123 ", ("AbC123", "XyZ789")),
        ("DISABLE_PREDICTIVE_ANALYTICS", "True", True),
        ("DISABLE_PREDICTIVE_ANALYTICS", "0", False),
        ("EXCLUDE_COLUMNS", "profiles.email, *.extra", ("profiles.email", "*.extra")),
        ("HASH_COLUMNS", "*.email", ("*.email",)),
        (
            "JSON_KEYS",
            "events.event_properties:$value|Item Names,profiles.properties:a",
            ("events.event_properties:$value|Item Names", "profiles.properties:a"),
        ),
        ("TIMEZONE", "Europe/Copenhagen", "Europe/Copenhagen"),
        ("REPORT_START_DATE", "2025-12-31", date(2025, 12, 31)),
        ("DATA_DIR", " ./demo ", "./demo"),
        ("FOLDER_MODE", "0750", "750"),
        ("FOLDER_MODE", "775", "775"),
        ("DATA_DIR", "/mnt/a b/50%/x=1/[é]'\"#;:&", "/mnt/a b/50%/x=1/[é]'\"#;:&"),
        ("DATA_DIR", "/mnt/pk_production_lake", "/mnt/pk_production_lake"),
        ("STATE_DIR", "state", "state"),
        ("STATE_DIR", "/var/my%20state?", "/var/my%20state?"),
        ("RATE_LIMIT_SHARE", "0.5", 0.5),
        ("RATE_LIMIT_SCALE", "100", 100.0),
        ("TUNE_PROCESS", "no", False),
    ],
)
def test_a_variable_is_its_setting(variable: str, raw: str, value: object) -> None:
    """Each variable sets the field of its own name, and no other."""
    expected: dict[str, Any] = {variable.lower(): value}
    assert read(**{f"KLAVIYO_{variable}": raw}) == Settings(**expected)


@pytest.mark.parametrize(
    ("variable", "raw", "allowed"),
    [
        ("REVISION", "latest", "2026-07-15"),
        ("REVISION", "2026-10-16", "2026-10-15"),
        ("REVISION", "2026-07-15.pre", "Allowed: 2026-07-15 or 2026-10-15."),
        ("DATA_DIR", "s3://bucket/lake", "a folder of this machine"),
        ("DATA_DIR", "s3:/bucket/lake", "a folder of this machine"),
        ("DATA_DIR", "file:///mnt/lake", "a folder of this machine"),
        ("DATA_DIR", "abfss+x://c@a.dfs.example/lake", "a folder of this machine"),
        ("STATE_DIR", "gs://bucket/state", "a folder of this machine"),
        ("DATA_DIR", "~/lake", "its whole path"),
        ("STATE_DIR", "~ada/state", "its whole path"),
        ("DATA_DIR", "/mnt/my%20lake", "no % before two hexadecimal digits"),
        ("DATA_DIR", "/mnt/lake?", "no ?"),
        ("DATA_DIR", "C:\\lake", "no backslash"),
        ("DATA_DIR", "/mnt/a\nb", "without control characters"),
        ("DATA_DIR", "/mnt/a\x7fb", "without control characters"),
        ("STATE_DIR", "/mnt/a\tb", "without control characters"),
        ("DATA_DIR", "/mnt/\udcff", "without control characters"),
        ("START_DATE", "31.01.2026", "YYYY-MM-DD"),
        ("START_DATE", "2026-02-30", "YYYY-MM-DD"),
        ("START_DATE", "20260131", "YYYY-MM-DD"),
        ("START_DATE", "2026-W05-1", "YYYY-MM-DD"),
        ("START_DATE", "0001-01-01", "not before 1970-01-01"),
        ("LOOKBACK_DAYS", "-1", "from 0 to 36500"),
        ("LOOKBACK_DAYS", "36501", "from 0 to 36500"),
        ("LOOKBACK_DAYS", "9" * 5000, "from 0 to 36500"),
        ("LATE_EVENTS_DAYS", "1.5", "whole number"),
        ("REPORT_RESERVE", "225", "from 0 to 224"),
        ("REPORT_RESERVE", "-1", "whole number"),
        ("EVENT_METRIC_IDS", 'AbC") or (', "metric ids"),
        ("CONVERSION_METRIC_IDS", "Placed Order", "Allowed: all or auto or metric ids"),
        ("DISABLE_PREDICTIVE_ANALYTICS", "perhaps", "true or false"),
        ("EXCLUDE_COLUMNS", "email", "profiles.email"),
        ("EXCLUDE_COLUMNS", "profiles.email;profiles.title", "separated by commas"),
        ("HASH_COLUMNS", "profiles:email", "profiles.email"),
        ("JSON_KEYS", "events.event_properties", "$value|ItemNames"),
        ("JSON_KEYS", "events.event_properties:a||b", "$value|ItemNames"),
        ("TIMEZONE", "Mars/Olympus", "IANA"),
        ("TIMEZONE", "../UTC", "IANA"),
        ("FOLDER_MODE", "777", "0 for others, who may read at most"),
        ("FOLDER_MODE", "640", "7 for the owner"),
        ("FOLDER_MODE", "2750", "three octal digits"),
        ("FOLDER_MODE", "rwxr-x---", "such as 750"),
        ("RATE_LIMIT_SHARE", "0", "above 0 and up to 1"),
        ("RATE_LIMIT_SHARE", "1.1", "above 0 and up to 1"),
        ("RATE_LIMIT_SHARE", "nan", "above 0 and up to 1"),
        ("RATE_LIMIT_SCALE", "inf", "above 0"),
        ("RATE_LIMIT_SCALE", "much", "a number"),
        ("MAX_BODY_MIB", "0", "from 1 to 2047"),
        ("SHRINK_LIMIT", "-0.1", "from 0 to 1"),
        ("TUNE_PROCESS", "off", "true or false"),
    ],
)
def test_a_bad_value_is_refused_in_words(variable: str, raw: str, allowed: str) -> None:
    """The refusal names the variable, the value and what is allowed; the default stands in."""
    settings, [refusal] = read_settings({f"KLAVIYO_{variable}": raw})
    assert settings == Settings()
    assert f"KLAVIYO_{variable}={raw!r}" in str(refusal)
    assert allowed in str(refusal)


@pytest.mark.parametrize("field", [each.name.upper() for each in fields(Settings)])
@pytest.mark.parametrize("around", ["{}", "AbC123, {}", "https://{}@a.klaviyo.com", "/mnt/{}/x"])
@pytest.mark.parametrize("key", ["pk_0123456789abcdef0123456789abcdef01", "pk_AbC123_09af09af09af"])
def test_a_key_in_the_wrong_variable_is_not_quoted(field: str, around: str, key: str) -> None:
    """A key would end in filters, paths and messages; whatever the variable, it is not quoted."""
    settings, [refusal] = read_settings({f"KLAVIYO_{field}": around.format(key)})
    assert settings == Settings()
    assert f"KLAVIYO_{field} cannot be used" in str(refusal)
    assert "belongs in KLAVIYO_API_KEY alone" in str(refusal)
    assert key not in str(refusal)


@pytest.mark.parametrize("raw", ["pk_short", "2026-01-01 pk_AbCdEfGhIjKlMnOp"])
def test_what_may_be_a_key_is_not_quoted_either(raw: str) -> None:
    """A cut key, or one without a digit, is no date: refused, and its value left out."""
    _, [refusal] = read_settings({"KLAVIYO_START_DATE": raw})
    assert "YYYY-MM-DD" in str(refusal)
    assert "pk_" not in str(refusal)


def test_every_bad_value_is_named_at_once() -> None:
    """One mistake does not hide another, nor a setting that is right."""
    settings, refusals = read_settings(
        {
            "KLAVIYO_START_DATE": "x",
            "KLAVIYO_LOOKBACK_DAYS": "y",
            "KLAVIYO_DATA_DIR": "z",
        }
    )
    assert len(refusals) == 2
    assert settings == Settings(data_dir="z")


def test_a_blank_value_is_none() -> None:
    """A variable that is set to nothing counts as not set."""
    assert read(KLAVIYO_START_DATE="  ", KLAVIYO_LOOKBACK_DAYS="") == Settings()


def test_the_key_is_no_setting() -> None:
    """No value that is printed, compared or refused can hold the key."""
    settings, refusals = read_settings({"KLAVIYO_API_KEY": "pk_secret\n"})
    assert "pk_secret" not in f"{settings}{refusals}"


def test_a_start_date_is_midnight_in_utc() -> None:
    """The day given is read from its first instant; none given means everything."""
    assert Settings(start_date=date(2026, 1, 31)).start == datetime(2026, 1, 31, tzinfo=UTC)
    assert Settings().start is None


def test_what_is_left_out_is_what_the_setting_names() -> None:
    """Predictive analytics are requested unless they are disabled."""
    assert Settings().excluded_additional_fields == frozenset()
    assert Settings(disable_predictive_analytics=True).excluded_additional_fields == {
        "predictive_analytics"
    }


@pytest.mark.parametrize(
    "settings",
    [
        Settings(),
        Settings(
            start_date=date(2026, 1, 31),
            lookback_days=3,
            event_metric_ids=("AbC123", "XyZ789"),
            disable_predictive_analytics=True,
            json_keys=("events.event_properties:$value|Item Names",),
            timezone="Europe/Copenhagen",
            rate_limit_share=0.5,
        ),
    ],
)
def test_settings_are_written_as_variables_and_read_back(settings: Settings) -> None:
    """Settings written in Python mean what their variables mean."""
    assert read_settings(settings_to_environment(settings)) == (settings, ())


@pytest.mark.parametrize(
    "raw",
    ["$HOME/x", "$(pwd)", "${HOME}/x", "/srv/`pwd`", "'/srv'", '"/srv"', "/srv && x", "a | b"],
)
@pytest.mark.parametrize("name", ["DATA_DIR", "STATE_DIR"])
def test_shell_text_is_no_folder(name: str, raw: str) -> None:
    """Nothing here expands or runs it: a folder of that name would be made."""
    _, [refusal] = read_settings({f"KLAVIYO_{name}": raw})
    assert "no shell" in str(refusal)


@pytest.mark.parametrize("raw", ["/srv/$HOME/x", "/srv/a'b", "/srv/a&b;c", "/srv/jane@nas"])
def test_an_odd_name_is_a_folder(raw: str) -> None:
    """Signs that a shell knows may be part of a name."""
    assert read(KLAVIYO_DATA_DIR=raw).data_dir == raw


def test_a_first_day_in_the_future_is_refused() -> None:
    """Nothing would ever be read; tomorrow is today somewhere."""
    today = date(2026, 11, 30)
    for day, refused in ((today, 0), (date(2026, 12, 1), 0), (date(2026, 12, 2), 2)):
        settings = Settings(start_date=day, report_start_date=day)
        assert len(future_date_errors(settings, today=today)) == refused


def test_the_reserve_of_report_requests_leaves_one_of_the_published_limit() -> None:
    """The bound of the setting and the tier that Klaviyo publishes are one number."""
    assert TIER_REPORT.daily == MAX_REPORT_RESERVE + 1


def test_every_setting_is_documented() -> None:
    """Each has a meaning, what is allowed, and a default in words or as a value."""
    named = {each.name: each for each in environment_variables()}
    assert named.keys() > {variable_name(each.name) for each in fields(Settings)}
    for each in fields(Settings):
        text = named[variable_name(each.name)]
        assert text.default, text.name
        assert text.allowed, text.name
        assert text.description, text.name


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("KLAVIYO_STRAT_DATE", "did you mean KLAVIYO_START_DATE?"),
        ("KLAVIYO_HASH_COLUMN", "did you mean KLAVIYO_HASH_COLUMNS?"),
        ("KLAVIYO_APIKEY", "did you mean KLAVIYO_API_KEY?"),
        ("klaviyo_data_dir", "did you mean KLAVIYO_DATA_DIR?"),
        ("KLAVIYO_QUARTZ", "`klaviyo-assets --help` lists them"),
    ],
)
def test_an_unknown_name_is_reported_with_the_nearest_known_one(name: str, hint: str) -> None:
    """A slip in a name would go unnoticed; what the variable holds is not said."""
    [sentence] = unknown_variables({name: "pk_0123456789abcdef", "PATH": "/bin"})
    assert name in sentence
    assert hint in sentence
    assert "pk_" not in sentence


def test_a_key_in_place_of_a_name_is_not_quoted() -> None:
    """Even a name may hold a key, where a file of settings was written in haste."""
    [sentence] = unknown_variables({"KLAVIYO_KEY pk_0123456789abcdef": ""})
    assert "0123456789abcdef" not in sentence


def test_no_known_name_is_unknown() -> None:
    """Every variable of the documentation is known, the secrets among them."""
    assert unknown_variables({each.name: "x" for each in environment_variables()}) == []


def test_all_metrics_written_in_python_are_no_metric_of_that_name() -> None:
    """What the variable takes for every metric, the value does as well."""
    assert Settings(conversion_metric_ids=("all",)) == Settings()
    assert Settings(conversion_metric_ids=("AbC123", "all")).conversion_metric_ids == ()
