"""What is said to Klaviyo, and how fast: promises that need no socket."""
