"""HTML pages of a run, of the leaderboard and of a tuning study."""
