"""Whole processes that are killed, starved or started together: minutes, not seconds."""
