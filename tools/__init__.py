"""Programs for maintainers and for decisions; none of them is installed."""
