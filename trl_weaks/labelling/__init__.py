"""Weak supervisors at work: they answer prompts, read each other's answers, and leave a dataset for every student."""
