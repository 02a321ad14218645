"""The settings of a run, as one tree, and reading them from YAML."""
