"""The command `grasp`: the only room that reads the command line."""
