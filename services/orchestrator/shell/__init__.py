"""The orchestrator's world: Kafka in, one Postgres transaction a batch, Kafka out."""
