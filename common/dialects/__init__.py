"""Layouts of checkpoint files as tables of names, read in both directions."""

from common.dialects.rules import Dialect, Slot, mindspore_norms, torch_norms
from common.dialects.tables import DIALECTS

__all__ = ["DIALECTS", "Dialect", "Slot", "mindspore_norms", "torch_norms"]
