"""The passages nearest to a question, by their embeddings."""
