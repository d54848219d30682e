"""Studies: strategies compared on workloads of simulated problems, with figures that can be published and repeated."""
