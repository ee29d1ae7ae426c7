"""Parts of the report of a run, one file each."""
