"""Owns what expressions and templates make of the values that they are given, worked out before anything runs."""
