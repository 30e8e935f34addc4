"""Where finished profiles go."""
