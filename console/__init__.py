"""The `linli` command: runs services, keeps their databases, and shows the whole platform on one machine. Services do not know it."""
