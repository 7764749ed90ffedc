"""What time does: promote, rescue, verify, fold, retain."""
