"""Language models: import, graphs per phase and device, measurement of the phases, choice of devices, generation."""
