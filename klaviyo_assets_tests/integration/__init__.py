"""The rooms against what they talk to: the client and the sandbox, the lake and a folder."""
