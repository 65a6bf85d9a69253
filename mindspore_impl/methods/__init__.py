"""Training methods by name."""

from mindspore_impl.methods.cpcl.cpcl import CPCL
from mindspore_impl.methods.cpcl.cps import CPS
from mindspore_impl.methods.pcr.pcr import PCR
from mindspore_impl.methods.suponly import SupOnly
from mindspore_impl.methods.u2pl.u2pl import U2PL
from mindspore_impl.methods.u2pl.u2pl_ael import U2PLAEL
from mindspore_impl.methods.uccl.fixmatch import FixMatch
from mindspore_impl.methods.uccl.uccl import UCCL
from mindspore_impl.methods.uccl.unimatch import UniMatch
from mindspore_impl.methods.usrn.usrn import USRN

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
