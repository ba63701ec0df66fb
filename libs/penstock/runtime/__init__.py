"""How a service runs: Kafka, Postgres, settings, telemetry, lifecycle."""
