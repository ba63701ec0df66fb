"""Owns nothing: the process is its `__main__`."""
