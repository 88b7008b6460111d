"""Scores of a checkpoint on labelled data, as figures, text and pictures."""
