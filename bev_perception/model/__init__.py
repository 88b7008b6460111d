"""The network: images of a calibrated rig in, one logit per class and BEV cell out."""
