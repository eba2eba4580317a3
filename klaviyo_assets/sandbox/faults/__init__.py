"""What goes wrong on purpose: scripts of faults, and what each does to an answer.

`script` decides which request is hit, `replies`, `pages`, `records` change what is said, `wire`
says how it is sent. Nothing here answers a request by itself.
"""
