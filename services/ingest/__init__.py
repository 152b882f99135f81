"""Ingest: what cameras, gates and edge boxes send, and the register of those devices."""
