"""What is said: the topic registry, the messages, the envelope and the ids."""
