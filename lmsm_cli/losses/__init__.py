"""The losses (heads) and what they are made of; registry.py lists them by name."""
