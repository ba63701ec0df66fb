"""The door for people and HTTP clients, and the read side."""
