"""Benchmarks: how fast the road is, beside what a user would otherwise write.

`make bench` runs them all and writes a dated file into `results/`. Not a test: nothing here fails.
"""
