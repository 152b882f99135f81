"""Points: what earns them under published rules, who has how many, and what they are redeemed for."""
