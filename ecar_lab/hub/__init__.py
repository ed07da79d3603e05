"""Checkpoints to the Hub and back, and a Space that serves the app."""
