"""What surrounds the services: local servers, the sandbox payment provider, later image and cluster values."""
