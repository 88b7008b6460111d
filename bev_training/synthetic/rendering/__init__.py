"""Rays against the world (Embree), and the light that makes images of what they hit."""
