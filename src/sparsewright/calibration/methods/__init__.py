"""One-shot methods, one file per method."""

from sparsewright.calibration.method import Method
from sparsewright.calibration.methods.dsnot import DSnoT
from sparsewright.calibration.methods.magnitude import Magnitude
from sparsewright.calibration.methods.ria import RIA
from sparsewright.calibration.methods.sparsegpt import SparseGPT
from sparsewright.calibration.methods.wanda import Wanda

ALL: tuple[type[Method], ...] = (Magnitude, Wanda, SparseGPT, RIA, DSnoT)
"""The methods that a config can name. To add one, write its file and add it here."""
