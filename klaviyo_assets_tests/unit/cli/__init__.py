"""Tests of the command line's words."""
