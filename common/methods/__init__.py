"""Settings and host-side draws of every method, one file each; ``SETTINGS`` maps a method's name to its dataclass."""

from common.methods.suponly import SupOnlySettings
from common.methods.u2pl import U2PLSettings
from common.methods.usrn import USRNBaselineSettings, USRNSettings

SETTINGS = {
    "suponly": SupOnlySettings,
    "u2pl": U2PLSettings,
    "usrn_baseline": USRNBaselineSettings,
    "usrn": USRNSettings,
}
