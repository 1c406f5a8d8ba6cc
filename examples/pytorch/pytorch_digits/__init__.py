"""A Flower app with PyTorch: handwritten digits at many sites."""
