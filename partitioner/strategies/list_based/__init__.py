"""List scheduling: HEFT, CPOP, PEFT, ETF."""
