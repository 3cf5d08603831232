"""Backbones, necks, and the classifier that joins them with a loss."""
