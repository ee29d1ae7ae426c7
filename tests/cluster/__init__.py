"""A real single-node Slurm, and Postgres, started and ended by the tests: `make cluster-test`."""
