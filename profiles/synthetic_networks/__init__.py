"""Networks made up at random, of the blocks that real ones are made of: what a cost model learns from.

An operator's time in a network is not its time alone: engines fuse it with its neighbours, keep tensors in layouts of
their own, and find data in the caches or not. So the costs of an unseen model are learned from networks, and never
from the models that somebody will ask about: sizes, order and choice of the blocks are drawn by lot.
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
    """A network drawn by lot, as an ONNX model with fixed shapes.

    Parameters
    ----------
    seed : int
        The same seed gives the same network; seeds in a row go through the families of networks.

    Examples
    --------
    >>> synthetic_network(3) == synthetic_network(3), len(synthetic_network(3)) > 1000
    (True, True)
    """
    return _FAMILIES[seed % len(_FAMILIES)](random.Random(f"network {seed}")).model()
