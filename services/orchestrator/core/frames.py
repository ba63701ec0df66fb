"""Owns what is derived from a run's step rows: the open blocks, the awaited leaves and the due times."""


class Live:
    """What `restore` derives."""
