"""One odd word beside the records stops nothing: what is needed is read, the rest is left."""

import json
from typing import Any

import pytest

from klaviyo_assets_tests.e2e.conftest import StartHome
from klaviyo_assets_tests.e2e.home import Home

ATTRIBUTES: dict[str, Any] = {
    "no zone": {"test_account": False, "timezone": None, "contact_information": {}},
    "a number as zone": {"timezone": 7, "locale": ["en"]},
    "no attributes": None,
    "a list of attributes": [],
}


def account_saying(home: Home, attributes: object, **more: object) -> str:
    """Return the answer of /api/accounts with other attributes."""
    (account,) = home.account.true_ids("accounts")
    record = {"type": "account", "id": account, "attributes": attributes, **more}
    links = {"self": f"{home.account.url}/api/accounts", "next": None, "prev": None}
    return json.dumps({"data": [record], "links": links})


@pytest.mark.parametrize("attributes", ATTRIBUTES.values(), ids=ATTRIBUTES)
def test_an_odd_attribute_of_the_account_stops_no_stream(home: Home, attributes: object) -> None:
    """Whose data it is says the id alone; streams come, and the lake has the account's name."""
    text = account_saying(home, attributes, relationships=3, links=None)
    with home.account.inject_fault("text_body", match={"path": "/api/accounts"}, text=text):
        run = home.sync("events", "lists")
    assert run.success, run.failures
    assert run.warnings == ""
    for stream in ("events", "lists"):
        assert sorted(home.ids(stream)) == sorted(home.account.true_ids(stream))
    assert home.sync("events", "lists").success


@pytest.mark.usefixtures("fast_retries")
@pytest.mark.parametrize("data", ['[{"type":"account","id":""}]', "[]", '[{"id":9}]', '"x"'])
def test_an_account_without_an_id_is_no_account(home: Home, data: str) -> None:
    """Nothing is bound to a name that is none; it is requested again, and then fails in words."""
    text = f'{{"data": {data}, "links": {{"self": "{home.account.url}/api/accounts"}}}}'
    with home.account.inject_fault("text_body", match={"path": "/api/accounts"}, text=text):
        run = home.sync("lists")
    assert "names no account" in run.failures["lists"]
    assert home.sync("lists").success


def test_odd_words_beside_a_mapping_do_not_hide_it(open_home: StartHome) -> None:
    """Mappings without ids, and one whose name is a number: the revenue metric is found."""
    home = open_home()
    metric = min(home.account.true_ids("metrics"))
    related = {"metric": {"data": {"type": "metric", "id": metric}}}
    records: list[object] = [
        7,
        {"id": None},
        {"type": "mapped-metric", "id": "other", "relationships": []},
        {"type": "mapped-metric", "id": "revenue", "attributes": 3, "relationships": related},
    ]
    links = {"self": f"{home.account.url}/api/mapped-metrics", "next": None}
    text = json.dumps({"data": records, "links": links})
    with home.account.inject_fault("text_body", match={"path": "/api/mapped-metrics"}, text=text):
        run = home.sync("metrics", conversion_metric_ids="auto")
    assert run.success
    assert "no metrics were added" not in run.warnings
    assert "finds no revenue metric" not in run.warnings
