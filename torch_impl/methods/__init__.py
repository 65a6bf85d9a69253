"""Training methods by name."""

from torch_impl.methods.fixmatch import FixMatch
from torch_impl.methods.suponly import SupOnly
from torch_impl.methods.u2pl import U2PL
from torch_impl.methods.uccl import UCCL
from torch_impl.methods.unimatch import UniMatch

METHODS = {"suponly": SupOnly, "u2pl": U2PL, "uccl": UCCL, "fixmatch": FixMatch, "unimatch": UniMatch}
