"""Pure functions that need no module or optimizer: counts, selection, masks and filters."""

import sys

from sparsewright import errors, events

# Keep the import paths of version 0.1 working.
sys.modules[f"{__name__}.errors"] = errors
sys.modules[f"{__name__}.events"] = events
