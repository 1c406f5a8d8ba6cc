"""A Flower app with scikit-learn: handwritten digits at many sites."""
