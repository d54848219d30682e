"""The dispatcher behind every executor: which segment runs when, on which device, and what to do after a failure."""
