"""An MCP server of our own: facts about the Python packages that are installed here."""
