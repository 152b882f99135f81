"""Parking: lots, lanes, permits, sessions and what a stay costs."""
