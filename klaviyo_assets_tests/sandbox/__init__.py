"""Tests of the sandbox: that it is the judge it claims to be."""
