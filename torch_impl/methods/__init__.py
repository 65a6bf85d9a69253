"""Training methods by name."""

from torch_impl.methods.cpcl.cpcl import CPCL
from torch_impl.methods.cpcl.cps import CPS
from torch_impl.methods.pcr.pcr import PCR
from torch_impl.methods.suponly import SupOnly
from torch_impl.methods.u2pl.u2pl import U2PL
from torch_impl.methods.u2pl.u2pl_ael import U2PLAEL
from torch_impl.methods.uccl.fixmatch import FixMatch
from torch_impl.methods.uccl.uccl import UCCL
from torch_impl.methods.uccl.unimatch import UniMatch
from torch_impl.methods.usrn.usrn import USRN

METHODS = {
    "cpcl": CPCL,
    "cps": CPS,
    "fixmatch": FixMatch,
    "pcr": PCR,
    "suponly": SupOnly,
    "u2pl": U2PL,
    "u2pl_ael": U2PLAEL,
    "uccl": UCCL,
    "unimatch": UniMatch,
    "usrn": USRN,
    "usrn_baseline": SupOnly,
}
