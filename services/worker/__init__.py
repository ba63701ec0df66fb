"""Runs the user's own Python tasks."""
