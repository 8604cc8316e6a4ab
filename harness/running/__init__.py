"""One call of a subject: its tensors, its memory, its device, its backward."""
