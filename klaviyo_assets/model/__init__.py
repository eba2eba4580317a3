"""Words: the values that everything else is said in. No I/O, no clock, no Arrow, no Dagster."""
