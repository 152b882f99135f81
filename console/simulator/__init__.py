"""Simulated devices and people: they know nothing of Linli but its protocols."""
