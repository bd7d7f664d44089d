"""New weights into vLLM's model, inside its worker."""

from collections.abc import Mapping
from typing import Any

from v05ray.generation.sharing import SharedBundle, mapped
from v05ray.weights import Bucket, unpack


def reload(worker: Any, buckets: list[Bucket]) -> None:
    """Runs inside vLLM's worker: the checkpoint's tensors through the loader that the model was loaded with."""
    worker.reload_weights(weights_iterator=unpack(buckets))
    pack_again(worker)


def pack_again(worker: Any) -> None:
    """Packs for the CPU's kernels what a reload has left as it was packed at the start."""
    projection = getattr(worker.model_runner.get_model(), "lm_head", None)
    method = getattr(projection, "quant_method", None)
    if worker.device.type == "cpu" and method is not None:
        # A tied projection: the reload does not pack it again.
        method.process_weights_after_loading(projection)
    if worker.device.type == "cpu":
        for module in worker.model_runner.get_model().modules():
            kernel = getattr(getattr(module, "quant_method", None), "moe_kernel", None)
            if kernel is not None:
                kernel.fused_experts.process_weights_after_loading(module)


def reload_recorded(worker: Any, buckets: list[Bucket]) -> Mapping[str, Any]:
    """The same, noting where each tensor goes; vLLM's loader decides that once and for all."""
    from v05ray.generation.reading import Recorder

    with Recorder(worker.model_runner.get_model(), unpack(buckets)) as recorder:
        reload(worker, buckets)
    return recorder.places


def reload_part(worker: Any, bundle: SharedBundle) -> None:
    """The same in a worker process; every weight's loader takes the slice that is this part's."""
    reload(worker, mapped(bundle))
