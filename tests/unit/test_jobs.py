"""The built-in jobs, their data, and jobs from files."""

from __future__ import annotations

import gzip
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from gradmq.errors import JobError
from gradmq.infer.tensors import DTYPES
from gradmq.job import JobContext
from gradmq.jobs import BUILT_IN, fashion_data, fetch, lm_text, load
from gradmq.jobs.fashion_picture import as_in_the_data
from gradmq.serve import DATATYPES, TensorModel, TensorSpec, TextModel

EXAMPLES = Path(__file__).parents[2] / "examples"

A_JOB = "import gradmq\njob = gradmq.Job('mine', model=None, batches=None, loss='mse_loss')\n"


def one_line(error: pytest.ExceptionInfo[JobError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


# Jobs by name and by file.


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_a_built_in_job_is_found_by_its_name(name: str) -> None:
    assert load(name).name == name


def test_built_in_jobs_are_loaded_without_torch() -> None:
    code = (
        "import sys; from gradmq.jobs import BUILT_IN, load\n"
        "assert all(load(name).settings for name in BUILT_IN)\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(JobError) as error:
        load("imagenet")
    assert "'imagenet'" in one_line(error)
    assert all(name in str(error.value) for name in BUILT_IN)


def test_a_job_file_may_import_what_lies_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "neighbour_of_my_job.py").write_text("NAME = 'mine'\n")
    (tmp_path / "my_job.py").write_text("import neighbour_of_my_job as n\n" + A_JOB)
    assert load(str(tmp_path / "my_job.py")).name == "mine"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("x = 1\n", "defines no `job`: end it with"),
        (A_JOB.replace("job =", "training ="), "rename `training` to `job`"),
        ("job = 'lm'\n", "`job` is of type str"),
        ("x = 1\nx.y\n", "line 2 fails: AttributeError"),
        ("x = 1\n\ny = (\n", "line 3 fails: SyntaxError"),
        ("import no_such_module_of_mine\n", "line 1 fails: ModuleNotFoundError"),
        ("raise ValueError('first\\nsecond')\n", "ValueError: first second"),
        ("raise SystemExit(3)\n", "SystemExit: 3"),
        ("import json\n\njson.loads('{')\n", "line 3 fails: JSONDecodeError"),
    ],
)
def test_a_file_without_a_usable_job_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, said: str
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    path = tmp_path / "my_job.py"
    path.write_text(content)
    with pytest.raises(JobError) as error:
        load(str(path))
    assert said in one_line(error)
    assert str(path) in str(error.value)


def test_a_missing_file_is_refused() -> None:
    with pytest.raises(JobError, match=r"no_such\.py does not exist"):
        load("no_such.py")


# The text of lm.


def a_library(root: Path) -> Path:
    for number in range(200):
        folder = root / ("package" if number % 2 else ".")
        folder.mkdir(exist_ok=True)
        (folder / f"m{number}.py").write_text(f"# {number}\n")
    for skipped in ("test", "package/tests", "site-packages"):
        (root / skipped).mkdir(parents=True)
        (root / skipped / "skipped.py").write_text("skipped\n")
    (root / "notes.txt").write_text("skipped\n")
    return root


def test_every_file_of_the_library_is_in_exactly_one_part(tmp_path: Path) -> None:
    root = a_library(tmp_path)
    parts = [lm_text.text(part, str(root)).tobytes().splitlines() for part in ("train", "held_out")]
    assert Counter(parts[0] + parts[1]) == Counter(f"# {number}".encode() for number in range(200))
    assert 1 <= len(parts[1]) <= 25


def test_a_file_keeps_its_part_when_another_comes(tmp_path: Path) -> None:
    root = a_library(tmp_path)
    before = lm_text.text("held_out", str(root)).tobytes().splitlines()
    (root / "added.py").write_text("# added\n")
    lm_text.text.cache_clear()
    after = lm_text.text("held_out", str(root)).tobytes().splitlines()
    assert [line for line in after if line != b"# added"] == before


def test_this_pythons_library_is_split_about_19_to_1() -> None:
    train, held_out = lm_text.text("train"), lm_text.text("held_out")
    assert len(train) > 2_000_000
    assert 0.01 < len(held_out) / (len(train) + len(held_out)) < 0.12


def test_a_library_without_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"no \.py files"):
        lm_text.text("train", str(tmp_path))


# lm.


@pytest.mark.torch
def test_lm_begins_near_8_bits_per_byte_and_has_one_weight_for_both_ends() -> None:
    import torch

    job = load("lm")
    torch.manual_seed(0)
    model = job.model().eval()
    assert job.evaluate is not None
    with torch.inference_mode():
        metrics = job.evaluate(model, JobContext())
    assert list(metrics) == ["bits_per_byte"]
    assert 7.0 < metrics["bits_per_byte"] < 9.5
    sizes = [parameter.numel() for parameter in model.parameters()]
    assert 250_000 <= sum(sizes) <= 700_000
    assert sum(256 in parameter.shape for parameter in model.parameters()) == 1


@pytest.mark.torch
def test_lm_learns_from_its_batches() -> None:
    import torch

    job = load("lm")
    assert callable(job.loss)
    torch.manual_seed(0)
    model = job.model()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    losses = []
    for _, (inputs, targets) in zip(range(25), job.batches(JobContext(seed=1)), strict=False):
        assert torch.equal(inputs[:, 1:], targets[:, :-1])
        loss = job.loss(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.5


@pytest.mark.torch
def test_lm_sees_no_byte_after_the_present_one() -> None:
    import torch

    model = load("lm").model().eval()
    tokens = torch.randint(256, (1, 20))
    changed = tokens.clone()
    changed[0, 12] = (changed[0, 12] + 1) % 256
    with torch.inference_mode():
        difference = (model(tokens) - model(changed)).abs().amax(-1)[0]
    assert torch.all(difference[:12] < 1e-5)
    assert difference[12] > 1e-3


@pytest.mark.torch
@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_workers_of_other_seeds_draw_other_batches(
    name: str, request: pytest.FixtureRequest
) -> None:
    import torch

    if name == "fashion-mnist":
        request.getfixturevalue("fashion_mnist")
    job = load(name)
    first, again, other = (next(iter(job.batches(JobContext(seed=seed)))) for seed in (1, 1, 2))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


@pytest.mark.torch
@pytest.mark.parametrize("text", ["def f(x):", "Grüße, 世界", "\ud800", ""])
def test_lm_text_becomes_bytes_and_text_again(text: str) -> None:
    import torch

    job = load("lm")
    assert job.serve is not None
    serve = job.serve()
    assert isinstance(serve, TextModel)
    tokens = serve.encode(text)
    assert tokens and all(0 <= token < 256 for token in tokens)
    assert serve.decode(tokens) == (text.encode("utf-8", "replace").decode() or "\n")
    context = torch.tensor([tokens[-serve.context_tokens :]])
    assert job.model()(context).shape == (1, context.shape[1], 256)


def test_bytes_that_are_no_text_are_decoded_all_the_same() -> None:
    serve = load("lm").serve
    assert serve is not None
    text_model = serve()
    assert isinstance(text_model, TextModel)
    assert text_model.decode([0xC3, 0x28, 0xFF]) == "\ufffd(\ufffd"


# The data of fashion-mnist.


@pytest.fixture
def fashion_mnist() -> Path:
    try:
        return fashion_data.find_folder()
    except JobError as error:
        pytest.skip(str(error))


@pytest.fixture
def empty_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without the data; returns its cache folder, which does not exist."""
    monkeypatch.setattr(fashion_data, "SYSTEM_FOLDER", tmp_path / "system")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return fashion_data.cache_folder()


def put_files(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name in fashion_data.FILES:
        (folder / name).touch()
    return folder


def test_missing_data_says_what_to_do_in_one_line(empty_machine: Path) -> None:
    with pytest.raises(JobError) as error:
        fashion_data.load("train")
    said = one_line(error)
    for what in ("make data", "dataset-fashion-mnist", "--data DIR", str(empty_machine)):
        assert what in said


def test_the_given_folder_goes_before_the_systems_and_that_before_the_cache(
    empty_machine: Path, tmp_path: Path
) -> None:
    put_files(empty_machine)
    assert fashion_data.find_folder() == empty_machine
    system = put_files(tmp_path / "system")
    assert fashion_data.find_folder() == system
    given = put_files(tmp_path / "given")
    assert fashion_data.find_folder(str(given)) == given


def test_a_given_folder_without_the_files_is_refused_although_others_have_them(
    empty_machine: Path, tmp_path: Path
) -> None:
    put_files(empty_machine)
    with pytest.raises(JobError, match=r"has no train-images-idx3-ubyte\.gz"):
        fashion_data.find_folder(str(tmp_path))


def test_the_cache_is_below_home_where_xdg_names_no_absolute_path(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert fashion_data.cache_folder() == Path("/home/someone/.cache/gradmq/fashion-mnist")


LABELS = "t10k-labels-idx1-ubyte.gz"
LABELS_HEADER = bytes((0, 0, 8, 1, 0, 0, 0x27, 0x10))


def test_an_idx_file_is_read_as_its_header_says(tmp_path: Path) -> None:
    labels = np.arange(10_000, dtype=np.uint8)
    path = tmp_path / LABELS
    path.write_bytes(gzip.compress(LABELS_HEADER + labels.tobytes()))
    assert np.array_equal(fashion_data.read_idx(path), labels)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not gzip",
        gzip.compress(LABELS_HEADER + bytes(10_000))[:-9],
        gzip.compress(b""),
        gzip.compress(LABELS_HEADER + bytes(9_999)),
        gzip.compress(bytes((0, 0, 9)) + LABELS_HEADER[3:] + bytes(10_000)),
    ],
    ids=["empty", "no gzip", "cut off", "empty gzip", "short", "other type"],
)
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / LABELS
    path.write_bytes(content)
    with pytest.raises(JobError) as error:
        fashion_data.read_idx(path)
    assert str(path) in one_line(error) and "make data" in str(error.value)


# The fetcher.


def test_data_that_is_there_is_not_fetched_again(
    empty_machine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put_files(empty_machine)
    assert fetch.main() == 0
    assert "already there" in capsys.readouterr().out


def test_a_machine_without_apt_is_told_where_to_put_the_files(
    empty_machine: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert fetch.main() == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and str(empty_machine) in said
    assert not empty_machine.exists()


def test_a_failed_download_leaves_nothing_behind(
    empty_machine: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("apt-get", "dpkg-deb"):
        (tools / name).write_text("#!/bin/sh\necho 'E: no network' >&2\nexit 100\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tools))
    assert fetch.main() == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "E: no network" in said
    assert list(empty_machine.parent.iterdir()) == []


# fashion-mnist.


@pytest.mark.torch
def test_fashion_mnist_judges_all_test_pictures(fashion_mnist: Path) -> None:
    import torch

    job = load("fashion-mnist")
    torch.manual_seed(0)
    model = job.model().eval()
    assert sum(parameter.numel() for parameter in model.parameters()) <= 110_000
    assert job.evaluate is not None
    with torch.inference_mode():
        metrics = job.evaluate(model, JobContext())
    assert list(metrics) == ["accuracy", "loss"]
    assert 0.0 <= metrics["accuracy"] <= 0.4 and abs(metrics["loss"] - np.log(10)) < 1e-4


def test_every_picture_of_the_test_set_is_the_same_as_a_file(fashion_mnist: Path) -> None:
    images, _ = fashion_data.load("test")
    for image in images[:300]:
        assert np.array_equal(as_in_the_data(image), image)
        assert np.array_equal(as_in_the_data(255 - image), image)


@pytest.mark.torch
def test_fashion_mnist_batches_are_scaled_pictures_and_their_labels(fashion_mnist: Path) -> None:
    import torch

    pictures, labels = next(iter(load("fashion-mnist").batches(JobContext(seed=3))))
    assert pictures.shape == (len(labels), 1, 28, 28) and pictures.dtype == torch.float32
    assert abs(float(pictures.mean())) < 0.2 and 0.8 < float(pictures.std()) < 1.2
    assert labels.dtype == torch.int64 and set(labels.tolist()) == set(range(10))


@pytest.mark.torch
def test_fashion_mnist_is_asked_with_raw_pictures_and_answers_probabilities() -> None:
    job = load("fashion-mnist")
    assert job.serve is not None
    spec = job.serve()
    assert isinstance(spec, TensorModel) and spec.prepare is not None and spec.finish is not None
    answer = spec.finish(job.model()(*spec.prepare({"image": np.zeros((3, 28, 28), np.uint8)})))
    assert set(answer) == {tensor.name for tensor in spec.outputs}
    assert np.allclose(answer["probabilities"].sum(1).tolist(), 1.0, atol=1e-5)
    assert answer["class"].tolist() == answer["probabilities"].argmax(1).tolist()
    assert answer["label"] == [spec.class_names[number] for number in answer["class"].tolist()]
    assert set(spec.media) == {"image/png", "image/jpeg"}


# Serving, and the example.


def test_a_tensor_of_an_unknown_datatype_or_shape_is_refused() -> None:
    with pytest.raises(JobError, match="'float32' is none of BF16"):
        TensorSpec("x", "float32", (-1, 2))
    for shape in ((), (-2, 3)):
        with pytest.raises(JobError, match="needs a batch dimension"):
            TensorSpec("x", "FP32", shape)


def test_tensors_of_bytes_need_the_function_that_torch_cannot_do_without() -> None:
    words, number = TensorSpec("words", "BYTES", (-1,)), TensorSpec("number", "FP32", (-1,))
    with pytest.raises(JobError, match=r"tensor words: .* a prepare"):
        TensorModel((words,), (number,))
    with pytest.raises(JobError, match=r"tensor words: .* a finish"):
        TensorModel((number,), (words,))


def test_every_datatype_that_a_job_may_name_can_be_asked_for() -> None:
    assert set(DTYPES) == DATATYPES


@pytest.mark.torch
def test_the_example_learns() -> None:
    import torch

    job = load(str(EXAMPLES / "regression.py"))
    assert isinstance(job.loss, str) and job.evaluate is not None and job.serve is not None
    torch.manual_seed(0)
    model = job.model()
    optimizer = torch.optim.SGD(model.parameters(), lr=job.settings["optimizer.lr"], momentum=0.9)
    for _, (inputs, targets) in zip(range(600), job.batches(JobContext()), strict=False):
        loss = getattr(torch.nn.functional, job.loss)(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert job.evaluate(model.eval(), JobContext())["rmse"] < 0.1
    assert isinstance(job.serve(), TensorModel)
