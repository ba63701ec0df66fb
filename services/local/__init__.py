"""Everything on one machine: real Kafka, real Postgres, a real small model, all services."""
