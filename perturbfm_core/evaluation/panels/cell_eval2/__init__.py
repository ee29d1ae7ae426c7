"""The metrics of the Arc Institute's cell-eval2 0.20.0, with which the 2026 Virtual Cell Challenge is scored."""
