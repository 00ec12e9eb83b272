"""Models, loops, cases, processes and files that several test files share."""
