"""Billing: what is owed, what was paid and what went back, through payment providers. Read `service.py` first."""
