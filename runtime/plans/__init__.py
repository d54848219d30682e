"""Plans on disk, and the timelines that are predicted and measured of them."""
