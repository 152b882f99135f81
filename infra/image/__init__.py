"""The container image: how it is built. What runs in it is what runs anywhere."""
