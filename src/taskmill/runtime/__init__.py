"""What runs: services, loops, batches, frames, logs and metrics. Nothing here knows what a task is."""
