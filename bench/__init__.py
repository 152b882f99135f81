"""Benchmarks: what Linli does in a second, as ratios to a ceiling or a peer measured in the same run. Never part of the tests."""
