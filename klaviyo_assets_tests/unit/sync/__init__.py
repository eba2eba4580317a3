"""The river: plans, progress, walks and pools."""
