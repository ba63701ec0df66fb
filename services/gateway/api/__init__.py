"""The HTTP door: runs, workflows, costs, lag, live events, one page."""
