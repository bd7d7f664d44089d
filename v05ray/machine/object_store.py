"""How much of Ray's object store a run needs: two versions of the weights, and room for a batch on its way."""

import json
import math
import struct
from collections.abc import Sequence
from pathlib import Path

from v05ray.config import Config
from v05ray.errors import ConfigError
from v05ray.machine.layout import Node
from v05ray.storage.lfs import check_no_pointer
from v05ray.weights.buckets import ITEM_BYTES
from v05ray.weights.delta import CHAIN_BELOW

MIB = 2**20
VERSIONS = 2
"""While one version is packed, the one before is still there for a generator that restarts."""
ROOM_MIB = 128
"""For samples, support pairs and what Ray itself puts there."""
LEAST_MIB = 256


def weights_bytes(folder: Path, dtype: str) -> int:
    """Bytes of a model folder's tensors in `dtype`, from the headers of its safetensors; 0 where it has none.

    Raises `ConfigError` for a file that is damaged.
    """
    return sum(_num_elements(path) for path in folder.glob("*.safetensors")) * ITEM_BYTES.get(dtype, 4)


def _num_elements(path: Path) -> int:
    """The header is an 8-byte little-endian length and that many bytes of JSON."""
    check_no_pointer(path)
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > path.stat().st_size:
                raise ValueError("cut off")
            header = json.loads(file.read(length))
        return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
    except (OSError, ValueError, struct.error, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{path} is not a whole safetensors file ({type(error).__name__}); fetch it again") from error


def needed_mib(config: Config) -> int:
    """What one node's object store should hold for this run, in MiB."""
    weights = weights_bytes(config.model.path, config.model.dtype)
    versions = VERSIONS + (CHAIN_BELOW if config.sends_deltas else 0)
    return max(LEAST_MIB, ROOM_MIB + math.ceil(versions * weights / MIB))


def private_mib(config: Config) -> int:
    """The object store of a private local cluster: as configured, else what is needed."""
    asked = config.cluster.object_store_mib
    return needed_mib(config) if asked is None else asked


def shortage(config: Config, nodes: Sequence[Node]) -> str | None:
    """One sentence where no node's object store is large enough; None where one is, or where it is unknown.

    It is no error: Ray writes to disk what finds no room, and each new version of the weights takes longer.
    """
    sizes = [node.resources["object_store_memory"] for node in nodes if "object_store_memory" in node.resources]
    needed = needed_mib(config)
    if not sizes or max(sizes) >= needed * MIB:
        return None
    return (
        f"the largest object store has {max(sizes) / MIB:.0f} MiB, less than the {needed} MiB that two versions of the "
        "weights and a batch take: Ray writes the rest to disk and new weights take longer; give the nodes more "
        "(`ray start --object-store-memory`), or leave cluster.object_store_mib unset for a private cluster"
    )
