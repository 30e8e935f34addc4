"""Sampling engines: they copy, they do not interpret."""
