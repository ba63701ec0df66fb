"""Owns sizing: what fits on which accelerators, how fast it is and what it costs, before anything is bought."""
