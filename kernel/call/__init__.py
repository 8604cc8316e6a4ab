"""What a call is: its arguments, checked, the plan that runs it, and the launch of a kernel."""
