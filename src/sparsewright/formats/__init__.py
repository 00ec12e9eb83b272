"""Files and what is in them: whole reads and writes, YAML, masks as bits, names. No torch."""
