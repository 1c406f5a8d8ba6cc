"""The embedded example: a normal Flower app (the folder ``app``), and the command that runs it."""
