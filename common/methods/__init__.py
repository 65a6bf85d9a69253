"""Settings and host-side draws of every method, one file each; ``SETTINGS`` maps a method's name to its dataclass."""

from common.methods.pcr import PCRSettings
from common.methods.suponly import SupOnlySettings
from common.methods.u2pl import U2PLSettings

SETTINGS = {"suponly": SupOnlySettings, "u2pl": U2PLSettings, "pcr": PCRSettings}
