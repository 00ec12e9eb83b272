"""Ready runs for the command line: data, model and loop, small and readable."""
