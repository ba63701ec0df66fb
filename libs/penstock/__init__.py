"""Penstock: durable LLM agent workflows on Kafka, model calls batched onto vLLM."""
