"""Decides what happens next in each run, and nothing else."""
