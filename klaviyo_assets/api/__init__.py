"""Talk: all that is said to Klaviyo, and how fast.

What is known of the protocol is pure (exchange, filters, protocol, refusals, limits, retries); what
touches the world is in two files: `client` (the only socket, the only sleep) and `ledger` (the only
file, the budget that all processes of a user share).
"""
