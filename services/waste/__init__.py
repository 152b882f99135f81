"""Smart bins, what residents put into them, and the rounds that empty them."""
