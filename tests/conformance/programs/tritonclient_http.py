"""tritonclient's two HTTP clients against the jobs echo and fashion-mnist, as anybody uses them.

python tritonclient_http.py ECHO_URL FASHION_MNIST_URL
"""

import asyncio
import sys

import ml_dtypes
import numpy as np
import tritonclient.http as http
import tritonclient.http.aio as http_aio
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

KINDS = ["BF16", "BOOL", "BYTES", "FP16", "FP32", "FP64", "INT16", "INT32", "INT64", "INT8"]
KINDS += ["UINT16", "UINT32", "UINT64", "UINT8"]

#: The protocol's JSON has no numbers of so few bits.
BINARY_ONLY = {"BF16", "FP16"}

COMPRESSIONS = [None, "gzip", "deflate"]


def array_of(kind: str) -> np.ndarray:
    if kind == "BYTES":
        return np.array([["", "Grüße".encode()], [b"a\nb", "\U0001f600".encode()]], object)
    if kind == "BF16":
        return np.array([[0, -1.5], [3.0, 2.0**100]], ml_dtypes.bfloat16)
    dtype = np.dtype(triton_to_np_dtype(kind))
    if dtype.kind == "b":
        return np.array([[True, False], [False, True]])
    largest = np.finfo(dtype).max if dtype.kind == "f" else np.iinfo(dtype).max
    return np.array([[0, 1], [2, largest]], dtype)


def echo_inputs(api, binary: bool) -> list:
    inputs = []
    for kind in KINDS:
        tensor = api.InferInput(f"in_{kind}", [2, 2], kind)
        tensor.set_data_from_numpy(array_of(kind), binary_data=binary or kind in BINARY_ONLY)
        inputs.append(tensor)
    return inputs


def check_echo(result, id_: str) -> None:
    for kind in KINDS:
        got, want = result.as_numpy(f"out_{kind}"), array_of(kind)
        if kind == "BYTES":
            got = np.array([[_bytes(each) for each in row] for row in got], object)
            want = np.array([[_bytes(each) for each in row] for row in want], object)
        assert got.shape == (2, 2) and np.array_equal(got.astype(want.dtype), want), (kind, got)
    answer = result.get_response()
    assert answer["id"] == id_ and answer["model_name"] == "echo"
    assert set(answer["parameters"]) == {"gradmq_release", "gradmq_versions", "gradmq_age_ms"}


def _bytes(value) -> bytes:
    return value.encode() if isinstance(value, str) else value


def picture() -> http.InferInput:
    image = http.InferInput("image", [3, 28, 28], "UINT8")
    image.set_data_from_numpy(np.zeros((3, 28, 28), np.uint8))
    return image


def check_picture(result) -> None:
    classes, labels = result.as_numpy("class"), result.as_numpy("label")
    assert classes.shape == labels.shape == (3,) and classes.dtype == np.int64
    assert labels[0] == b"T-shirt/top", labels
    assert np.allclose(result.as_numpy("probabilities").sum(1), 1, atol=1e-5)


def refused(status: str, part: str, call, *args, **settings) -> None:
    try:
        answer = call(*args, **settings)
    except InferenceServerException as error:
        assert error.status() == status and part in error.message(), (error.status(), error)
        return
    raise AssertionError(f"{call} answered {answer}")


def sync(echo_url: str, fashion_url: str) -> None:
    with http.InferenceServerClient(echo_url, concurrency=4) as echo:
        assert echo.is_server_live() and echo.is_server_ready() and echo.is_model_ready("echo")
        server = echo.get_server_metadata()
        assert server["name"] == "gradmq" and "binary_tensor_data" in server["extensions"]
        metadata, config = echo.get_model_metadata("echo"), echo.get_model_config("echo")
        assert [each["datatype"] for each in metadata["inputs"]] == KINDS
        assert config["max_batch_size"] == 4 and len(config["input"]) == len(KINDS)
        (version,) = metadata["versions"]
        assert echo.is_model_ready("echo", version)
        (listed,) = echo.get_model_repository_index()
        assert (listed["name"], listed["state"]) == ("echo", "READY")
        for binary in (True, False):
            outputs = [
                http.InferRequestedOutput(f"out_{kind}", binary or kind in BINARY_ONLY)
                for kind in KINDS
            ]
            for asked in COMPRESSIONS:
                for answered in COMPRESSIONS:
                    check_echo(
                        echo.infer(
                            "echo",
                            echo_inputs(http, binary),
                            model_version=version,
                            outputs=outputs,
                            request_id="7",
                            request_compression_algorithm=asked,
                            response_compression_algorithm=answered,
                        ),
                        "7",
                    )
        many = [
            echo.async_infer("echo", echo_inputs(http, True), request_id=str(n)) for n in range(16)
        ]
        for number, each in enumerate(many):
            check_echo(each.get_result(), str(number))
        (stats,) = echo.get_inference_statistics("echo")["model_stats"]
        assert stats["inference_stats"]["success"]["count"] == 34
        inputs = echo_inputs(http, True)
        refused("404", "no model 'other' here", echo.infer, "other", inputs)
        refused("404", "'999' is not served", echo.infer, "echo", inputs, model_version="999")
        refused("400", "is missing", echo.infer, "echo", inputs[1:])
        refused("400", "'sequence_id'", echo.infer, "echo", inputs, sequence_id=3)
        refused("404", "is not served", echo.load_model, "echo")
        refused("404", "is not served", echo.get_system_shared_memory_status)
        inputs[0].set_shape([4, 4])
        refused("400", "needs 32", echo.infer, "echo", inputs)
        check_echo(echo.infer("echo", echo_inputs(http, True), request_id="end"), "end")
    with http.InferenceServerClient(fashion_url) as fashion:
        check_picture(fashion.infer("fashion-mnist", [picture()]))


async def use_aio(echo_url: str, fashion_url: str) -> None:
    async with http_aio.InferenceServerClient(echo_url) as echo:
        assert await echo.is_server_ready() and await echo.is_model_ready("echo")
        assert (await echo.get_model_metadata("echo"))["name"] == "echo"
        assert (await echo.get_model_repository_index())[0]["state"] == "READY"
        answers = await asyncio.gather(
            *(
                echo.infer(
                    "echo",
                    echo_inputs(http_aio, number % 2 == 0),
                    request_id=str(number),
                    request_compression_algorithm=COMPRESSIONS[number % 3],
                    response_compression_algorithm=COMPRESSIONS[number // 3 % 3],
                )
                for number in range(18)
            )
        )
        for number, answer in enumerate(answers):
            check_echo(answer, str(number))
        try:
            await echo.infer("other", echo_inputs(http_aio, True))
        except InferenceServerException as error:
            assert error.status() == "404"
        else:
            raise AssertionError("another model answered")
    async with http_aio.InferenceServerClient(fashion_url) as fashion:
        check_picture(await fashion.infer("fashion-mnist", [picture()]))


def main(echo_url: str, fashion_url: str) -> None:
    echo, fashion = (url.removeprefix("http://") for url in (echo_url, fashion_url))
    sync(echo, fashion)
    asyncio.run(use_aio(echo, fashion))
    print("sync and aio: health, metadata, config, index, stats; 14 datatypes in JSON and binary; "
          "gzip, deflate; 16 at once; 8 errors")  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
