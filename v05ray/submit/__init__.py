"""Training as a job of a Ray cluster, over Ray's Jobs API.

`working_dir` gathers the few files a job needs, `request` makes of a job file what the cluster is asked for, `client`
talks to the cluster's head.
"""

from v05ray.submit.request import Request, make_request
from v05ray.submit.working_dir import Shipment, collect

__all__ = ["Request", "Shipment", "collect", "make_request"]
