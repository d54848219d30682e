"""Random synthetic networks, made of the blocks of real ones: the training data of the cost models.

The time of an operator in a network differs from its time alone: engines fuse it with its neighbours, choose layouts,
and find its data in the caches or not. The costs of an unseen model are therefore learned from networks whose sizes,
order and choice of blocks are random, and never from the models that users ask about.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from .elementwise_networks import arithmetic
from .image_networks import detector, mobile, resnet, segmenter
from .network_builder import NetworkBuilder
from .quantised_networks import dynamic, quantised
from .sequence_networks import audio, tokens, transformer

_FAMILIES: tuple[Callable[[random.Random], NetworkBuilder], ...] = (
    mobile, detector, transformer, resnet, audio, tokens, quantised, segmenter, arithmetic, mobile, dynamic, detector,
)  # fmt: skip


def synthetic_network(seed: int) -> bytes:
    """Return a random network, as an ONNX model with static shapes.

    Parameters
    ----------
    seed : int
        The same seed gives the same network; consecutive seeds cycle through the families of networks.

    Examples
    --------
    >>> synthetic_network(3) == synthetic_network(3), len(synthetic_network(3)) > 1000
    (True, True)
    """
    return _FAMILIES[seed % len(_FAMILIES)](random.Random(f"network {seed}")).model()
