"""Owns everything on one machine: real Kafka, real Postgres, a real small model and all services, supervised."""
