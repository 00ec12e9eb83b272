"""The pure core: schedules, counts, selection, masks, filters, errors. No module, no optimizer."""
