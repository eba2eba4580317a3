"""What outsiders check: Klaviyo's published facts, the README, and the rules of the house."""
