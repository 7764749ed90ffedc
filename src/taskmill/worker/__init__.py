"""The supervisor: claims, renews and settles, and never imports user code."""
