"""All operations that the sandbox serves, in one tuple."""

from klaviyo_assets.sandbox.facts.audience import AUDIENCE
from klaviyo_assets.sandbox.facts.content import CONTENT
from klaviyo_assets.sandbox.facts.happenings import HAPPENINGS
from klaviyo_assets.sandbox.facts.operation import Operation
from klaviyo_assets.sandbox.facts.reporting import REPORTING

OPERATIONS: tuple[Operation, ...] = (*HAPPENINGS, *AUDIENCE, *CONTENT, *REPORTING)
