"""Clients that know Penstock's topics and nothing else of it, in the languages other teams use."""
