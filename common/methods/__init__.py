"""Settings and host-side draws of every method, one file each; ``SETTINGS`` maps a method's name to its dataclass."""

from common.methods.fixmatch import FixMatchSettings
from common.methods.suponly import SupOnlySettings
from common.methods.u2pl import U2PLSettings
from common.methods.uccl import UCCLSettings
from common.methods.unimatch import UniMatchSettings

SETTINGS = {
    "suponly": SupOnlySettings,
    "u2pl": U2PLSettings,
    "uccl": UCCLSettings,
    "fixmatch": FixMatchSettings,
    "unimatch": UniMatchSettings,
}
