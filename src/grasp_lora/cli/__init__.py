"""The command `grasp`."""
