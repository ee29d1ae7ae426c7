"""Registries that find their members, and sources of what plug-ins were executed from."""
