"""Documented import path of `compress`, defined in `session.convert`."""

from sparsewright.session.convert import Conversion, compress, decompress, measure_speed

__all__ = ["Conversion", "compress", "decompress", "measure_speed"]
