"""From the scores of all runs to tables, ranks and intervals in DuckDB."""
