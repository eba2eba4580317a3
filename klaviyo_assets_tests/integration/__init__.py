"""Rooms against the outside things they talk to: the client and the sandbox, the lake and a folder."""
