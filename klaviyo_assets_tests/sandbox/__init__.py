"""Tests of the sandbox: that it refuses what Klaviyo refuses."""
