"""The lake: Delta tables of Parquet files, and the DuckDB database of views over them."""
