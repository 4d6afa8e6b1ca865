"""What the trainer of classes is made of: its data, collator, model, objective and card."""
