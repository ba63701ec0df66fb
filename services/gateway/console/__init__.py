"""The page that shows runs, costs and lag."""
