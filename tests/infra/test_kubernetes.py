"""The work pool for Kubernetes and the Ray cluster, rendered and read as Kubernetes reads them."""

from __future__ import annotations

import asyncio
import json
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
import yaml
from prefect import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import FlowRun

INFRA = Path(__file__).parents[2] / "infra"
POOL: dict[str, Any] = json.loads((INFRA / "kubernetes-pool.json").read_text())
IMAGE = POOL["variables"]["properties"]["image"]["default"]
LABEL = {"app.kubernetes.io/name": "restyle"}


def read_as(kind: str, manifest: dict[str, Any]) -> None:
    """Fails if Kubernetes has no such field or not of this type: its client would drop it."""
    from kubernetes_asyncio.client import ApiClient

    async def read() -> Any:
        async with ApiClient() as client:
            answer = SimpleNamespace(data=json.dumps(manifest))
            return client.sanitize_for_serialization(client.deserialize(answer, kind))

    assert asyncio.run(read()) == manifest


@pytest.mark.slow
def test_a_job_of_the_pool_has_what_its_deployment_wants(prefect: str) -> None:
    from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration

    with get_client(sync_client=True) as client:
        created = client.create_work_pool(
            WorkPoolCreate(name="restyle-gpu", type="kubernetes", base_job_template=POOL)
        )
        wanted = {"image": "example/restyle:1", "gpus": "2", "node_selector": {"gpu": "h200"}}
        config = asyncio.run(
            KubernetesWorkerJobConfiguration.from_template_and_values(
                created.base_job_template, wanted
            )
        )
    config.prepare_for_flow_run(FlowRun(flow_id=uuid4(), name="night"))
    manifest = config.job_manifest
    pod = manifest["spec"]["template"]["spec"]
    # Prefect's worker insists on these two where Kubernetes does not know them.
    assert pod.pop("parallelism") == pod.pop("completions") == 1
    read_as("V1Job", manifest)
    assert LABEL.items() <= manifest["spec"]["template"]["metadata"]["labels"].items()
    assert pod["nodeSelector"] == {"gpu": "h200"}
    assert pod["tolerations"][0]["key"] == "nvidia.com/gpu"
    assert pod["volumes"][0]["emptyDir"] == {"medium": "Memory", "sizeLimit": "1Gi"}
    (container,) = pod["containers"]
    assert container["image"] == "example/restyle:1"
    assert container["args"] == ["prefect", "flow-run", "execute"]
    assert container["envFrom"] == [{"secretRef": {"name": "restyle-s3", "optional": True}}]
    limits, requests = container["resources"]["limits"], container["resources"]["requests"]
    assert limits["nvidia.com/gpu"] == requests["nvidia.com/gpu"] == "2"
    assert not [one for one in container["env"] if one["name"].startswith("AWS_")]


def test_the_ray_cluster_is_one_and_nobody_else_reaches_it() -> None:
    cluster, policy = yaml.safe_load_all((INFRA / "ray-cluster.yaml").read_text())
    assert (cluster["apiVersion"], cluster["kind"]) == ("ray.io/v1", "RayCluster")
    spec = cluster["spec"]
    assert spec["rayVersion"] == version("ray")
    assert spec["authOptions"] == {"mode": "token"}
    head, (workers,) = spec["headGroupSpec"], spec["workerGroupSpecs"]
    assert head["rayStartParams"] == {"num-cpus": "0", "num-gpus": "0"}
    for group, gpus in ((head, None), (workers, "1")):
        read_as("V1PodTemplateSpec", group["template"])
        assert group["template"]["metadata"]["labels"] == LABEL
        (container,) = group["template"]["spec"]["containers"]
        assert container["image"] == IMAGE
        assert container["resources"]["limits"].get("nvidia.com/gpu") == gpus
    probed = container["readinessProbe"]["tcpSocket"]["port"]
    assert workers["rayStartParams"] == {"node-manager-port": str(probed)}
    read_as("V1NetworkPolicy", policy)
    assert policy["spec"]["podSelector"] == {"matchLabels": LABEL}
    assert policy["spec"]["ingress"] == [{"from": [{"podSelector": {"matchLabels": LABEL}}]}]
