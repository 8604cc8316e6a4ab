"""Recall: the share of planted faults that a campaign finds, and what else is known of every fault."""
