"""TabPFN's v2.5 architecture alone: the package around it takes two seconds to import, and none of it is used here."""

from v05ray.lean_imports import bare

with bare("tabpfn", "tabpfn.architectures", "tabpfn.preprocessing", "tabpfn.preprocessing.torch"):
    from tabpfn.architectures import tabpfn_v2_5

__all__ = ["tabpfn_v2_5"]
