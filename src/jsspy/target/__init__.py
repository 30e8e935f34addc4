"""One process, read-only: its memory, mappings, files and threads."""
