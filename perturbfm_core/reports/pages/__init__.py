"""HTML pages: of a run, of the leaderboard, of a tuning study."""
