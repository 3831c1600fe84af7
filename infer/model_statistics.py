"""The statistics extension of the Open Inference Protocol, as Triton's clients read it."""

from __future__ import annotations

from gradmq.exposition import Stage
from gradmq.infer.measures import Measures


def model_statistics(name: str, version: str, measures: Measures) -> dict[str, object]:
    """What this node did since it started, all releases together, under the newest one's number."""
    failures = Stage()
    for stage in measures.failures.values():
        failures.count += stage.count
        failures.seconds += stage.seconds
    stages = {
        "success": measures.success,
        "fail": failures,
        "queue": measures.queue,
        "compute_input": measures.compute_input,
        "compute_infer": measures.compute_infer,
        "compute_output": measures.compute_output,
        "cache_hit": Stage(),
        "cache_miss": Stage(),
    }
    model = {
        "name": name,
        "version": version,
        "last_inference": round(measures.last_inference_at_s * 1000),
        "inference_count": measures.rows,
        "execution_count": measures.executions,
        "inference_stats": {
            name: {"count": stage.count, "ns": round(stage.seconds * 1e9)}
            for name, stage in stages.items()
        },
        "response_stats": {},
        "batch_stats": [],
        "memory_usage": [],
    }
    return {"model_stats": [model]}
