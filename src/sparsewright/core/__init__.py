"""The pure core: counts, selection, masks, filters. No module, no optimizer."""

import sys

from sparsewright import errors, events

# The import paths of version 0.1.
sys.modules[f"{__name__}.errors"] = errors
sys.modules[f"{__name__}.events"] = events
