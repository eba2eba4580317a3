"""The generated account: profiles, events, campaigns and what changes in them."""
