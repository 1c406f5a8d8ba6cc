"""A Flower app in NumPy: a line is fitted to the numbers of many sites."""
