"""Training methods by name."""

from torch_impl.methods.pcr import PCR
from torch_impl.methods.suponly import SupOnly
from torch_impl.methods.u2pl import U2PL

METHODS = {"suponly": SupOnly, "u2pl": U2PL, "pcr": PCR}
