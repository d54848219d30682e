"""The overhead and the speed-up of running a plan, case by case."""
