"""What the community's devices measured and saw: telemetry in day-partitioned chunks, and the objects that cameras reported."""
