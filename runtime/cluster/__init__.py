"""Many machines as one: Ray starts, places and watches processes; what they compute and say is trisect's own."""
