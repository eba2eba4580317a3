"""The console command: one module per subject, a `Verb` value per verb."""
