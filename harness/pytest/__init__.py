"""The pytest plugin: saved failures as tests, Hypothesis profiles, one test over several workers."""
