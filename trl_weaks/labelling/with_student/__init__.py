"""Labels that a trained student helps to make: transforms `(labels, trained student) -> labels`."""
