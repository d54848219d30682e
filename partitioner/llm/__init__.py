"""Language models: reading them, and making the graphs of their two phases."""
