"""The right answer in float64, with its gradients."""
