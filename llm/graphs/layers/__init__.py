"""Parts of a decoder that the graphs share: attention, feed-forward, experts, gated delta layers."""
