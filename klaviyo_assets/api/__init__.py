"""Talks to Klaviyo's API: builds requests, sends them within the rate limits, checks responses."""
