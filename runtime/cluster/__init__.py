"""Ray clusters: Ray starts, places and monitors processes on several machines; what they run is trisect's own."""
