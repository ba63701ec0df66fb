"""Turns inference requests into tokens, keeping the engine's batch full."""
