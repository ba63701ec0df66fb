"""Runs MCP tools with the grants that a request carries, and no more."""
