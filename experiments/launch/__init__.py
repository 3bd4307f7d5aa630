"""Starts `experiments.train` on clusters, and again until it is done."""
