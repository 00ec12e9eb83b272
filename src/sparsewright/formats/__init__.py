"""Files and what is in them: whole writes, masks as bits, names of entries. Numpy only."""
