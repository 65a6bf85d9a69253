"""Training methods by name."""

from mindspore_impl.methods.suponly import SupOnly
from mindspore_impl.methods.u2pl import U2PL
from mindspore_impl.methods.usrn import USRN

METHODS = {"suponly": SupOnly, "u2pl": U2PL, "usrn_baseline": SupOnly, "usrn": USRN}
