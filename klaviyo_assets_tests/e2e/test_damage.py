"""A table that was damaged from outside makes those that show it fail, and nobody else."""

from klaviyo_assets_tests.e2e.home import Home


def test_a_view_of_a_lost_file_is_no_success(home: Home) -> None:
    """events_detailed fails when the file of metrics is gone, and names what it is made of."""
    assert home.sync("events", "metrics", "events_detailed").success
    for file in (home.data / "lake" / "metrics").glob("*.parquet"):
        file.unlink()
    run = home.sync("events", "events_detailed")
    assert "made of events and metrics" in run.failed["events_detailed"]
    assert "events" in run.materialized
    assert home.count("events") == len(home.shop.truth("events"))
