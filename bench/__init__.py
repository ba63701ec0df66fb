"""Measures speed on real Kafka and Postgres."""
