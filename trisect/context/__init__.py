"""Device selection by an application's hints and requirements, and queries before and after a model is compiled.

After the W3C's WebNN explainer on device selection. A context does not split a model: it turns options into devices, an
objective and constraints for the planner.
"""
