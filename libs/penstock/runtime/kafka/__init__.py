"""How a service speaks to Kafka: the publisher, the two consumer shapes, topics and lag."""
