"""A normal Flower app: handwritten digits at many sites."""
