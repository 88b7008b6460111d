"""Training: settings, the loop, checkpoints and curves."""
