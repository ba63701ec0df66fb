"""The orchestrator's decisions: pure, no I/O, clock or randomness."""
