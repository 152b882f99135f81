"""Access: who may pass which door, what opens it, and what somebody has to look at. Begin with `service.py`."""
