"""Cases of `efficiency`: where more parallelism stops to pay."""
