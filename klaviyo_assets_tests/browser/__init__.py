"""The pages: a real browser presses the buttons of a real Dagster UI with its daemon."""
