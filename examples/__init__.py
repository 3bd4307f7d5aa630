"""Models as their authors write them, and the few lines that bring them in."""
