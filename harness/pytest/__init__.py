"""The pytest plugin: saved failures as tests, Hypothesis profiles, one property test split over several workers."""
