"""How many examples a property test takes, where an example costs more than a millisecond."""

from hypothesis import settings

HOUSE_EXAMPLES = 50
"""As many as the profile `house` gives a test that says nothing."""


def costly_examples(count: int) -> settings:
    """Take so many examples in the profile `house`, and the more in one that has more of them.

    `max_examples` alone would hold in `--hypothesis-profile=search`, too, which is there to look
    for others.
    """
    return settings(max_examples=max(1, count * settings().max_examples // HOUSE_EXAMPLES))
