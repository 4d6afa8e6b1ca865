"""What the trainer of preference pairs is made of: its checks, collator and metrics."""
