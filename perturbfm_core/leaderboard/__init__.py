"""Leaderboard of all runs: tables, ranks and confidence intervals in a DuckDB database."""
