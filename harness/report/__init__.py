"""A report: one HTML page that shows what campaigns and the corpus hold, and where in a tensor each failure is."""
