"""Reports: what was sent, what came of it, by send date; and metric aggregates by event date.

`sends` is the truth, a function of (seed, message, hour) and of the time since; the rest translates
it into Klaviyo's words. Source: section "Reporting" of the API reference, revision 2026-07-15.
"""
