"""The tests: unit, contract, integration, end to end, the sandbox's own, and the benchmarks."""
