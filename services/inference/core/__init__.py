"""Inference arithmetic: admission, pricing, token buckets; pure."""
