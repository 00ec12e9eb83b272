"""Ready samples for the command line: data, model and the sections of a configuration."""
