"""Identity: communities, the homes and people in them, who may do what, and sign-in. Start reading at `service.py`."""
