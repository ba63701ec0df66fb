"""What the gateway knows of runs and costs: learnt from topics, kept in its own tables."""
