"""Self-contained HTML: one report per run, one page for the leaderboard."""
