"""Training methods by name."""

from mindspore_impl.methods.fixmatch import FixMatch
from mindspore_impl.methods.suponly import SupOnly
from mindspore_impl.methods.u2pl import U2PL
from mindspore_impl.methods.uccl import UCCL
from mindspore_impl.methods.unimatch import UniMatch

METHODS = {"suponly": SupOnly, "u2pl": U2PL, "uccl": UCCL, "fixmatch": FixMatch, "unimatch": UniMatch}
