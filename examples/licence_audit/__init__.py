"""Owns the example that `make demo` runs: an audit of the licences of real packages by a real, very small model."""
