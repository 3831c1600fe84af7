"""KServe's REST client against the jobs echo and fashion-mnist.

python kserve_rest.py ECHO_URL FASHION_MNIST_URL
"""

import asyncio
import sys

import httpx
import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput

#: Those that its numpy conversion knows.
KINDS = ["BOOL", "FP32", "FP64", "INT16", "INT32", "INT64", "INT8", "UINT16", "UINT32", "UINT64"]
KINDS += ["UINT8"]


async def main(echo_url: str, fashion_url: str) -> None:
    client = InferenceRESTClient(RESTConfig(protocol="v2", timeout=30))
    for url, name in ((echo_url, "echo"), (fashion_url, "fashion-mnist")):
        assert await client.is_server_live(url) and await client.is_server_ready(url)
        assert await client.is_model_ready(url, name)
    for binary in (True, False):
        image = InferInput("image", [2, 28, 28], "UINT8")
        image.set_data_from_numpy(np.zeros((2, 28, 28), np.uint8), binary_data=binary)
        outputs = [
            RequestedOutput(name, {"binary_data": binary})
            for name in ("class", "label", "probabilities")
        ]
        request = InferRequest("fashion-mnist", [image], request_id="7", request_outputs=outputs)
        answer = await client.infer(fashion_url, request, model_name="fashion-mnist")
        found = {output.name: output.as_numpy() for output in answer.outputs}
        assert answer.id == "7" and answer.model_name == "fashion-mnist"
        assert found["class"].shape == (2,) and found["probabilities"].shape == (2, 10)
        assert [
            str(each, "utf-8") if isinstance(each, bytes) else str(each) for each in found["label"]
        ] == ["T-shirt/top"] * 2
    try:
        await client.infer(fashion_url, request, model_name="other")
    except httpx.HTTPStatusError as error:
        assert error.response.status_code == 404
        assert "no model 'other'" in error.response.json()["error"]
    else:
        raise AssertionError("another model answered")
    await client.close()
    print("health; JSON and binary; an error")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
