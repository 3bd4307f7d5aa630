"""Several processes and devices: who is there, and what lies where."""
