"""Where forecasts come from: the sources, and what is made of their answers."""
