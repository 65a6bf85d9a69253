"""Training methods by name."""

from torch_impl.methods.suponly import SupOnly
from torch_impl.methods.u2pl import U2PL
from torch_impl.methods.usrn import USRN

METHODS = {"suponly": SupOnly, "u2pl": U2PL, "usrn_baseline": SupOnly, "usrn": USRN}
