"""What readers open: the DuckDB database, its views, queries and exports."""
