"""From physical frames to names, files and lines."""
