"""Pure values and decisions: no I/O, no clock reads, no randomness that is not passed in."""
