"""What time does: promote, rescue, verify, fold, retain. Each is safe to run twice, by anyone, at any time."""
