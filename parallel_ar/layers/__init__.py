"""Linen layers, per example: masked dense and convolution, attention."""
