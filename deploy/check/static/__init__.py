"""What can be checked without running it, in under two minutes. A topic a file; each exports `CHECKS`."""
