"""The pure core: schedules, masks, score shapers, filters, errors. No module or optimizer here."""
