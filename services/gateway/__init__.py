"""HTTP and JSON for phones, generated from the contracts of the services."""
