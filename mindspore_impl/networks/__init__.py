"""Networks and the one builder for all of them."""

from common.config.schema import NetworkConfig
from mindspore_impl.networks.deeplab import DeepLab


def build_network(config: NetworkConfig, classes: int) -> DeepLab:
    """Return the network of ``config`` for ``classes`` classes; its values are set by ``common.networks.initial`` or a checkpoint."""
    return DeepLab(config, classes)
