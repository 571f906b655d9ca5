"""Many trials of one recipe: a grid, random search or TPE, on this machine or a Ray cluster."""
