"""PerturBench splits: a reimplementation of its splitters, and import of splits that it saved."""
