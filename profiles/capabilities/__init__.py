"""What devices can run, asked of the engines and cached."""
