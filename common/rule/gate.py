"""The gate of the rule: what belongs to another clip than the frames that a stage holds does not count."""

import numpy as np

from common.rule.host_values import HostValues
from common.rule.packet import Packet


def gate(packet: Packet, held: Packet, masks: HostValues) -> int:
    """Zero the rows of `packet` whose clip differs from that of `held`. Returns the number of rows zeroed."""
    foreign = packet.clips != held.clips
    count = int(np.count_nonzero(foreign))
    if count:
        mask = masks.on(packet.tensor.device, foreign)
        packet.tensor.masked_fill_(mask.view(-1, *[1] * (packet.tensor.ndim - 1)), 0)
    return count
