"""The shop behind the sandbox: its events, people, groups, campaigns, flows, templates.

Every record follows from (seed, index) alone; what tests change lies on top. Nothing here knows
HTTP, pages or Klaviyo's parameters.
"""
