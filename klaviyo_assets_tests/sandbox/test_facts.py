"""The sandbox offers what Klaviyo publishes, checked by the facts that also check the product."""

import pytest

from klaviyo_assets.sandbox.facts.operations import JULY, load_revisions
from klaviyo_assets.sandbox.facts.schema import Operation
from klaviyo_assets_tests.contract.facts import OPERATIONS as PUBLISHED
from klaviyo_assets_tests.contract.facts import Operation as Published
from klaviyo_assets_tests.sandbox.sandbox_client import Document, SandboxClient

OPERATIONS = load_revisions()[JULY].operations.values()
BOTH = [each for each in OPERATIONS if each.method == "GET" and each.path in PUBLISHED]
UNLISTED = {
    "assigner_configuration.used",
    "assigner_configuration.unused_expired",
    "screenshot_url",
    "subscriptions.email.click_tracking",
}
"""Attributes that the older revision sends though its documents lack them."""

QUERIES = {
    "/api/campaigns": "?filter=equals(messages.channel,'email')",
    "/api/profiles": "?additional-fields[profile]=subscriptions,predictive_analytics",
    "/api/templates": "?additional-fields[template]=definition",
}


@pytest.mark.parametrize("operation", BOTH, ids=lambda each: each.name)
def test_offers_are_the_published_ones(operation: Operation) -> None:
    """Tiers, scopes, page sizes, filters, sorts and includes are those of Klaviyo's reference."""
    published = PUBLISHED[operation.path]
    assert (operation.tier.burst, operation.tier.steady) == (published.burst, published.steady)
    assert sorted(operation.scopes) == sorted(published.scopes)
    assert (operation.page_size.maximum if operation.page_size else None) == published.page_size
    assert bool(operation.required_filters) == published.is_filter_required
    assert set(operation.sorts) == set(published.sort)
    assert set(operation.includes) == set(published.include)
    assert {name: set(each.operators) for name, each in operation.filters.items()} == {
        name: set(operators) for name, operators in published.filters.items()
    }
    assert operation.kind == published.type


@pytest.mark.parametrize("operation", BOTH, ids=lambda each: each.name)
def test_lowered_limits_are_the_published_ones(operation: Operation) -> None:
    """A parameter that lowers a limit lowers it to the published burst and steady."""
    published = PUBLISHED[operation.path]
    assert {name: set(each) for name, each in operation.additional_fields.items()} == {
        name: set(each) for name, each in published.additional_fields.items()
    }
    lowered = {name: [each.burst, each.steady] for name, each in operation.reduced_tiers.items()}
    singular = {name.removesuffix("s"): value for name, value in lowered.items()}
    wanted = {name: list(value) for name, value in published.lowered.items()}
    if operation.role != "member_ids":
        assert {name.removesuffix("s"): value for name, value in wanted.items()} == singular


@pytest.mark.parametrize(
    "operation", [each for each in BOTH if "{id}" not in each.path], ids=lambda each: each.name
)
def test_answers_hold_only_published_attributes(
    client: SandboxClient, operation: Operation
) -> None:
    """Every attribute and relationship in a response is a published one."""
    published = PUBLISHED[operation.path]
    page = client.get_document(operation.path + QUERIES.get(operation.path, ""))
    assert page["data"]
    for record in page["data"]:
        assert unpublished_members(record, published) == []


def unpublished_members(record: Document, published: Published) -> list[str]:
    """The leaves of a record that the facts do not know; free-form objects hide what is in them."""
    known = set(published.attributes) | UNLISTED
    strange = [leaf for leaf in leaves(record["attributes"], known) if leaf not in known]
    related = set(record.get("relationships", {})) - set(published.relationships)
    return [*strange, *related]


def leaves(value: Document, known: set[str], at: str = "") -> list[str]:
    """Dotted paths of all leaves; an object whose own path is known counts as one."""
    found: list[str] = []
    for name in value:
        path = f"{at}{name}"
        # An object that is null stands for its members, which are known by their own paths.
        inside = any(each.startswith(f"{path}.") for each in known)
        if isinstance(value[name], dict) and path not in known:
            found += leaves(value[name], known, f"{path}.")
        elif value[name] is not None or not inside:
            found.append(path)
    return found
