"""What a sync writes: staged Parquet files, the merge, and the commit."""
