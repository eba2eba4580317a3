"""The fault matrix: what may go wrong, one numbered test a row, and the table made of them.

What belongs here: tests named `test_f01_...` to `test_f70_...`, in files by stage, each end to end
(a sandbox over a socket, Dagster, files) and judged by `judge`; the rows in `matrix.toml`, which
`python -m klaviyo_assets_tests.faults` writes to `docs/faults.md` with the tests it finds. What
does not: grounds for running (`e2e`), and details of a fault that no stream shows (`integration`).
"""
