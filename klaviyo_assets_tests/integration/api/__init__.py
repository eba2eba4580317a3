"""The client against real sockets on loopback, and what a network can do to them."""
