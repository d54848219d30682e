"""The dispatcher behind every executor: items in flight, device queues, memory, recovery."""
