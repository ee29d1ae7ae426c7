"""The artifact store on disk: paths, atomic writes, locks, and the record of code and machine behind a result."""
