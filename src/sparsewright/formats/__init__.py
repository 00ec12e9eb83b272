"""File formats that do not need torch: atomic writes, safe reads, YAML, packed masks and names."""
