"""How it is tested: builders, the in-memory log and store, fault injection."""
