"""What would a verdict cost in a Serve deployment of its own, against a call in the ingress?

    python -m benchmarks.verdict_hop

Both are asked the same unique questions in turn, in one run: a cosine of two embeddings and its verdict.
"""

import asyncio
import os
import platform
import statistics
import time

import numpy as np
import ray
from ray import serve

from data_jobs.session import connected
from train_jobs.scoring import Verdict, verdict

CALLS, ROUNDS, DIMENSION, WARM_UP = 200, 5, 512, 50


@serve.deployment(ray_actor_options={"num_cpus": 0.2})
class Mismatch:
    """The deployment that we do not have."""

    def judge(self, image: np.ndarray, text: np.ndarray) -> Verdict:
        return verdict(float(image @ text), 0.25)


async def hop(handle: serve.handle.DeploymentHandle, image: np.ndarray, text: np.ndarray) -> None:
    await handle.judge.remote(image, text)


async def in_process(image: np.ndarray, text: np.ndarray) -> None:
    verdict(float(image @ text), 0.25)


async def measure(handle: serve.handle.DeploymentHandle) -> None:
    rng = np.random.default_rng(0)
    times: dict[str, list[float]] = {"hop": [], "in process": []}
    for _ in range(WARM_UP):
        await hop(handle, *rng.standard_normal((2, DIMENSION), np.float32))
    for _ in range(ROUNDS):
        for name, call in (("hop", lambda i, t: hop(handle, i, t)), ("in process", in_process)):
            pairs = rng.standard_normal((CALLS, 2, DIMENSION), np.float32)
            for image, text in pairs:
                started = time.perf_counter()
                await call(image, text)
                times[name].append(time.perf_counter() - started)
    for name, seconds in times.items():
        p50, p99 = statistics.median(seconds), float(np.quantile(seconds, 0.99))
        print(f"{name:10}  p50 {1e6 * p50:8.1f} us   p99 {1e6 * p99:8.1f} us   ({len(seconds)} calls)")
    print(f"ratio of medians: {statistics.median(times['hop']) / statistics.median(times['in process']):.0f}")


def main() -> None:
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Ray {ray.__version__}")
    with connected():
        handle = serve.run(Mismatch.bind(), route_prefix=None)  # type: ignore[attr-defined]
        asyncio.run(measure(handle))
        serve.shutdown()


if __name__ == "__main__":
    main()
