"""What authors write: definitions, their checks, tasks and the client."""
