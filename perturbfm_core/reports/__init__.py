"""Self-contained HTML pages of runs, leaderboard and tuning studies, and the README's tables."""
