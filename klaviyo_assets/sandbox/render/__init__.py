"""Records as JSON:API: resources, relationships, included records, and fast pages of events.

Takes records from `shop` and a `Query`; knows neither sockets nor windows.
"""
