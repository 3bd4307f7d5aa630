"""Scripts that a researcher launches: `./run.sh <name> --help`."""
