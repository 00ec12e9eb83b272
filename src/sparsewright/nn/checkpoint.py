"""Documented import path of compressed checkpoints, defined in `storage.compressed_file`."""

from sparsewright.storage.compressed_file import SavedSize, load_compressed, save_compressed

__all__ = ["SavedSize", "load_compressed", "save_compressed"]
