"""Training methods by name."""

from mindspore_impl.methods.suponly import SupOnly
from mindspore_impl.methods.u2pl import U2PL
from mindspore_impl.methods.u2pl_ael import U2PLAEL

METHODS = {"suponly": SupOnly, "u2pl": U2PL, "u2pl_ael": U2PLAEL}
