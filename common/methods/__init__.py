"""Settings and host-side draws of every method, one file each; ``SETTINGS`` maps a method's name to its dataclass."""

from common.methods.cpcl.cpcl import CPCLSettings
from common.methods.cpcl.cps import CPSSettings
from common.methods.pcr.pcr import PCRSettings
from common.methods.suponly import SupOnlySettings
from common.methods.u2pl.u2pl import U2PLSettings
from common.methods.u2pl.u2pl_ael import U2PLAELSettings
from common.methods.uccl.fixmatch import FixMatchSettings
from common.methods.uccl.uccl import UCCLSettings
from common.methods.uccl.unimatch import UniMatchSettings
from common.methods.usrn.usrn import USRNBaselineSettings, USRNSettings

SETTINGS = {
    "cpcl": CPCLSettings,
    "cps": CPSSettings,
    "fixmatch": FixMatchSettings,
    "pcr": PCRSettings,
    "suponly": SupOnlySettings,
    "u2pl": U2PLSettings,
    "u2pl_ael": U2PLAELSettings,
    "uccl": UCCLSettings,
    "unimatch": UniMatchSettings,
    "usrn": USRNSettings,
    "usrn_baseline": USRNBaselineSettings,
}
