"""Recorded and synthetic drives as data."""
