"""How a service runs: settings, lifecycle, health, telemetry, Kafka and Postgres."""
