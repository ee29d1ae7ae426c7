"""The splits of PerturbBench: its splitters cell for cell, and splits that it saved."""
