"""Demo: a normal Flower app in the folder ``app``, and the local federation that runs it."""
