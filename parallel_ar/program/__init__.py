"""The traced pass as a value, and what is read off it."""
