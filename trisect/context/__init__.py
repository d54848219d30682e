"""The context: an application says what it wants, and learns what it gets, before and after a model is compiled.

After the W3C's WebNN explainer on device selection: hints, requirements, capability queries, and answers about a
compiled graph. Nothing here decides a split: it turns words into devices, an objective and constraints for the planner.
"""
