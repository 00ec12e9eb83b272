"""What several test files share: models, loops, cases, processes, files."""
