"""Offline side of bev_perception: synthetic drives, recorded drives, training and evaluation.

Uses ``bev_perception`` for everything that the vehicle does too (reading messages, synchronising,
preprocessing, the network), and is never imported by it. The command line is ``cli`` (``bev``).
"""
