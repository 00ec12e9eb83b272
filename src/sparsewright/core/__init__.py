"""The pure core: masks, score shapers, filters, errors. No module or optimizer here."""
