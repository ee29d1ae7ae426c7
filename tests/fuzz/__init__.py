"""Damaged files of every format, read by every verb that reads them: one line, exit 0 or 2, and nothing left."""
