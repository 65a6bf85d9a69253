"""Training methods by name."""

from mindspore_impl.methods.pcr import PCR
from mindspore_impl.methods.suponly import SupOnly
from mindspore_impl.methods.u2pl import U2PL

METHODS = {"suponly": SupOnly, "u2pl": U2PL, "pcr": PCR}
