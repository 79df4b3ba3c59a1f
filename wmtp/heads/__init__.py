"""Fit heads that are new to a model before they may touch it."""
