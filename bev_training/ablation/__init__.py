"""Grids of trainings: pretrained in many ways, fine-tuned on many shares of the labels."""
