"""Runs worth repeating, one file each: data, model, and what to expect."""
