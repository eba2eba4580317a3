"""The published facts of each operation that the sandbox serves, as values.

What Klaviyo's API reference states (path, scopes, rate tier, page sizes, filters, sorts, includes,
field names) belongs here; what the sandbox does about it does not.
Source: https://developers.klaviyo.com/en/reference, revision 2026-07-15.
"""

from klaviyo_assets.sandbox.facts.audience import AUDIENCE
from klaviyo_assets.sandbox.facts.content import CONTENT
from klaviyo_assets.sandbox.facts.happenings import HAPPENINGS
from klaviyo_assets.sandbox.facts.operation import Operation

OPERATIONS: tuple[Operation, ...] = (*HAPPENINGS, *AUDIENCE, *CONTENT)
