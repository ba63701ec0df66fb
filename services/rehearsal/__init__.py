"""Owns rehearsing a workflow: its cases run on the orchestrator's real core, in virtual time, on scripted answers."""
