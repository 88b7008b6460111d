"""Networks whose image features are distilled, and where those features are kept."""
