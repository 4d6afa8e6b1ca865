"""What the trainer of completions is made of: preparation of weak rows, checks, truncation, prefix-tree rows."""
