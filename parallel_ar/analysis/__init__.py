"""Measurements of models: causality, cost and time."""
