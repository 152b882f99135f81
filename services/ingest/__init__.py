"""Ingest: what cameras, gates, door terminals, sensors and edge boxes send and are told, and the register of those devices."""
