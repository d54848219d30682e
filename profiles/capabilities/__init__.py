"""Which operators devices support, found by trial compilation and cached."""
