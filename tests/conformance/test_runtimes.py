"""Every runtime opens, checks, runs and refuses in the same way.

The artefacts are in ``tests/fixtures/models``, and so is what made them. Damaged files are tried in a process of their own, so
that a crash is a failed test.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import pytest

from device.contract import TensorSpec
from device.contract.tensor import PIXEL_SCALE, PIXEL_ZERO_POINT
from device.core.errors import InferenceError, MissingDependencyError, ModelLoadError
from device.protocols import Array, Image, Runtime, Session
from device.runtimes.registry import RUNTIMES

MODELS = Path(__file__).parents[1] / "fixtures" / "models"
PIXELS = TensorSpec("pixels", (1, 32, 32, 3), "uint8", "NHWC", PIXEL_SCALE, PIXEL_ZERO_POINT)
REAL_SCORES = TensorSpec("scores", (1, 4), "float32", "NC")
FP32_TOLERANCE = 1e-5
INT8_TOLERANCE = 0.02
"""Of scores that span 1: five steps of eight bits."""


class Artefact(msgspec.Struct, frozen=True):
    runtime: str
    file: str
    tolerance: float
    output: TensorSpec = REAL_SCORES

    @property
    def path(self) -> Path:
        return MODELS / self.file

    @property
    def format(self) -> str:
        return self.path.suffix


with np.load(MODELS / "expected.npz") as arrays:
    INT8_SCORES = TensorSpec("scores", (1, 4), "int8", "NC", float(arrays["int8_output"][0]), int(arrays["int8_output"][1]))
    IMAGES: Image = arrays["pixels"]
    SCORES: Array = arrays["scores"]

ARTEFACTS = (
    Artefact("litert", "tiny_int8.tflite", INT8_TOLERANCE, INT8_SCORES),
    Artefact("litert", "tiny_fp32.tflite", FP32_TOLERANCE),
    Artefact("executorch", "tiny_int8.pte", INT8_TOLERANCE),
    Artefact("executorch", "tiny_fp32.pte", FP32_TOLERANCE),
    Artefact("executorch", "tiny_fp32_channels_last.pte", FP32_TOLERANCE),
    Artefact("executorch", "tiny_fp32_nhwc.pte", FP32_TOLERANCE),
    Artefact("executorch", "tiny_int8_boundary.pte", INT8_TOLERANCE),
)
HEADLINES = (ARTEFACTS[0], ARTEFACTS[2])


def test_every_runtime_of_the_registry_is_here() -> None:
    # Each test runs over one of these.
    for artefacts in (ARTEFACTS, HEADLINES):
        assert {artefact.runtime for artefact in artefacts} == set(RUNTIMES.own_names())


def load_runtime(name: str) -> Runtime:
    runtime: Runtime = RUNTIMES.load(name)()
    try:
        assert runtime.version
    except MissingDependencyError as error:
        pytest.skip(str(error))
    return runtime


def open_artefact(artefact: Artefact, *, threads: int = 1, model: Path | None = None) -> Session:
    runtime = load_runtime(artefact.runtime)
    return runtime.open(model or artefact.path, input=PIXELS, output=artefact.output, threads=threads)


@pytest.fixture
def pixels() -> Image:
    return IMAGES[:1]


each_artefact = pytest.mark.parametrize("artefact", ARTEFACTS, ids=lambda artefact: artefact.file)
each_runtime = pytest.mark.parametrize("artefact", HEADLINES, ids=lambda artefact: artefact.runtime)


# --- what is promised is what there is --------------------------------------------------------------------------------


@each_artefact
def test_specs_are_those_of_the_manifest(artefact: Artefact) -> None:
    with open_artefact(artefact) as session:
        assert session.input == PIXELS
        assert session.output == artefact.output


@each_artefact
def test_scores_are_those_of_the_trained_network(artefact: Artefact) -> None:
    with open_artefact(artefact) as session:
        for image, wanted in zip(IMAGES, SCORES, strict=True):
            found = session.run(image[None])
            assert found.shape == session.output.shape
            assert found.dtype == session.output.dtype
            real = (found.astype(np.float64) - session.output.zero_point) * session.output.scale
            np.testing.assert_allclose(real[0], wanted, rtol=0, atol=artefact.tolerance)


@each_artefact
def test_every_run_gives_the_same(artefact: Artefact) -> None:
    with open_artefact(artefact) as session:
        first = [session.run(image[None]).copy() for image in IMAGES]
        again = [session.run(image[None]).copy() for image in IMAGES]
    np.testing.assert_array_equal(first, again)


@each_artefact
def test_two_threads_give_the_same_as_one(artefact: Artefact, pixels: Image) -> None:
    with open_artefact(artefact, threads=1) as session:
        alone = session.run(pixels).copy()
    with open_artefact(artefact, threads=2) as session:
        np.testing.assert_array_equal(session.run(pixels), alone)


@each_runtime
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_are_those_asked_for(artefact: Artefact, threads: int) -> None:
    # In a process of its own: earlier sessions leave threads behind.
    script = f"""
before = count_threads()
with runtime.open(path, input=input, output=output, threads={threads}) as session:
    session.run(np.zeros(input.shape, np.uint8))
    print(session.threads, count_threads() - before)
"""
    assert run_script(artefact, script).split() == [str(threads), str(threads - 1)]


@each_runtime
def test_the_version_names_the_library(artefact: Artefact) -> None:
    name, _, version = load_runtime(artefact.runtime).version.partition(" ")
    assert name in {"litert": ("ai-edge-litert", "tflite-runtime"), "executorch": ("executorch",)}[artefact.runtime]
    assert version[0].isdigit()


@each_runtime
def test_two_sessions_are_independent(artefact: Artefact) -> None:
    with open_artefact(artefact) as one, open_artefact(artefact) as other:
        first = one.run(IMAGES[:1]).copy()
        second = other.run(IMAGES[1:2]).copy()
        assert not np.array_equal(first, second)
        np.testing.assert_array_equal(one.run(IMAGES[:1]), first)
        one.close()
        np.testing.assert_array_equal(other.run(IMAGES[1:2]), second)


@each_runtime
@pytest.mark.parametrize("threads", [1, 2])
def test_two_sessions_run_at_once(artefact: Artefact, threads: int) -> None:
    with open_artefact(artefact, threads=threads) as one, open_artefact(artefact, threads=threads) as other:
        wanted = [session.run(image).copy() for session, image in ((one, IMAGES[:1]), (other, IMAGES[1:2]))]
        with ThreadPoolExecutor(2) as pool:
            same = pool.map(gives_always, (one, other), (IMAGES[:1], IMAGES[1:2]), wanted)
            assert list(same) == [True, True]


def gives_always(session: Session, image: Image, wanted: Array) -> bool:
    return all(np.array_equal(session.run(image), wanted) for _ in range(300))


@each_runtime
def test_a_result_outlives_its_session(artefact: Artefact, pixels: Image) -> None:
    with open_artefact(artefact) as session:
        result = session.run(pixels)
        kept = result.copy()
    with open_artefact(artefact) as session:
        session.run(pixels[:, ::-1].copy())
    np.testing.assert_array_equal(result, kept)


# --- what is wrong is refused -----------------------------------------------------------------------------------------


@each_runtime
@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((1, 32, 32, 3), np.float32), "type"),
        (np.zeros((1, 32, 32, 3), np.int8), "type"),
        ([[0]], "type"),
        (np.zeros((32, 32, 3), np.uint8), "shape"),
        (np.zeros((1, 3, 32, 32), np.uint8), "shape"),
        (np.zeros((1, 31, 32, 3), np.uint8), "shape"),
        (np.zeros((1, 32, 64, 3), np.uint8)[:, :, ::2], "layout"),
        (np.zeros((1, 3, 32, 32), np.uint8).transpose(0, 2, 3, 1), "layout"),
    ],
    ids=["float32", "int8", "list", "no-batch", "channels-first", "short", "strided", "transposed"],
)
def test_wrong_arrays_are_refused(artefact: Artefact, array: Image, reason: str, pixels: Image) -> None:
    with open_artefact(artefact) as session:
        before = session.run(pixels).copy()
        with pytest.raises(InferenceError) as caught:
            session.run(array)
        assert caught.value.reason == reason
        np.testing.assert_array_equal(session.run(pixels), before)


@each_runtime
def test_a_closed_session_refuses_to_run(artefact: Artefact, pixels: Image) -> None:
    session = open_artefact(artefact)
    session.close()
    session.close()
    with pytest.raises(InferenceError) as caught:
        session.run(pixels)
    assert caught.value.reason == "closed"


@each_runtime
def test_closing_from_another_thread_waits_for_the_run(artefact: Artefact, pixels: Image) -> None:
    session = open_artefact(artefact)
    refusals: list[InferenceError] = []

    def run_until_closed() -> None:
        try:
            while True:
                session.run(pixels)
        except InferenceError as error:
            refusals.append(error)

    runner = threading.Thread(target=run_until_closed)
    runner.start()
    session.close()
    runner.join(timeout=30)
    assert [error.reason for error in refusals] == ["closed"]


@each_runtime
@pytest.mark.parametrize(
    ("which", "changes"),
    [
        ("input", {"shape": (1, 64, 64, 3)}),
        ("input", {"zero_point": 0}),
        ("input", {"scale": 1 / 255}),
        ("input", {"dtype": "int8"}),
        ("output", {"shape": (1, 5)}),
        ("output", {"dtype": "uint8"}),
    ],
    ids=lambda value: str(value),
)
def test_another_signature_than_promised_is_refused(artefact: Artefact, which: str, changes: dict[str, object]) -> None:
    specs = {"input": PIXELS, "output": artefact.output}
    specs[which] = msgspec.structs.replace(specs[which], **changes)
    with pytest.raises(ModelLoadError) as caught:
        load_runtime(artefact.runtime).open(artefact.path, threads=1, **specs)
    assert caught.value.reason == "signature"


@each_runtime
def test_operators_outside_the_delegate_are_refused(artefact: Artefact) -> None:
    with pytest.raises(ModelLoadError) as caught:
        load_runtime(artefact.runtime).open(
            MODELS / f"undelegated{artefact.format}", input=PIXELS, output=REAL_SCORES, threads=1
        )
    assert caught.value.reason == "undelegated"
    assert "cumsum" in str(caught.value).lower()


@each_runtime
@pytest.mark.parametrize("threads", [0, -1])
def test_no_threads_are_refused(artefact: Artefact, threads: int) -> None:
    with pytest.raises(ModelLoadError) as caught:
        open_artefact(artefact, threads=threads)
    assert caught.value.reason == "threads"


@each_runtime
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "missing"),
        (b"", "malformed"),
        (b"\0" * 4096, "malformed"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 100, "malformed"),
        ("other", "malformed"),
        ("newer", "version"),
        ("directory", "unreadable"),
    ],
    ids=["missing", "empty", "zeros", "png", "other-format", "newer-version", "directory"],
)
def test_foreign_files_are_refused(artefact: Artefact, content: bytes | str | None, reason: str, tmp_path: Path) -> None:
    model = tmp_path / f"model{artefact.format}"
    if content == "directory":
        model.mkdir()
    elif content == "other":
        model.write_bytes(next(other for other in HEADLINES if other is not artefact).path.read_bytes())
    elif content == "newer":
        data = bytearray(artefact.path.read_bytes())
        data[6:8] = b"99"
        model.write_bytes(data)
    elif isinstance(content, bytes):
        model.write_bytes(content)
    with pytest.raises(ModelLoadError) as caught:
        open_artefact(artefact, model=model)
    assert caught.value.reason == reason
    assert str(model) in str(caught.value)


@each_runtime
def test_truncated_files_are_refused(artefact: Artefact) -> None:
    script = """
data = path.read_bytes()
for size in range(0, len(data), 97):
    cut = scratch / f"cut{path.suffix}"
    cut.write_bytes(data[:size])
    try:
        runtime.open(cut, input=input, output=output, threads=1).close()
        print("opened", size)
    except ModelLoadError as error:
        assert error.reason == "malformed", error
"""
    assert run_script(artefact, script) == ""


def test_damaged_tables_of_a_program_are_refused() -> None:
    # Offset and length of the tables are in the program's extended header; what follows them is the delegate's own.
    script = """
data = path.read_bytes()
tables = int.from_bytes(data[16:24], "little")
random = np.random.default_rng(11)
for position in random.integers(0, 8 * tables, 400):
    damaged = bytearray(data)
    damaged[position // 8] ^= 1 << (position % 8)
    broken = scratch / "broken.pte"
    broken.write_bytes(damaged)
    try:
        with runtime.open(broken, input=input, output=output, threads=1) as session:
            session.run(np.zeros(input.shape, np.uint8))
    except (ModelLoadError, InferenceError):
        pass
print("alive")
"""
    assert run_script(HEADLINES[1], script) == "alive"


def test_litert_without_its_delegate_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    artefact = HEADLINES[0]
    load_runtime("litert")
    module = pytest.importorskip("ai_edge_litert.interpreter")
    undelegated = partial(
        module.Interpreter, experimental_op_resolver_type=module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    )
    monkeypatch.setattr(module, "Interpreter", undelegated)
    with pytest.raises(ModelLoadError) as caught:
        open_artefact(artefact)
    assert caught.value.reason == "undelegated"


def test_executorch_says_nothing_on_stderr_itself(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken.pte"
    broken.write_bytes(HEADLINES[1].path.read_bytes()[:3000])
    with pytest.raises(ModelLoadError):
        open_artefact(HEADLINES[1], model=broken)
    assert capfd.readouterr().err == ""


def test_executorch_refuses_another_thread_count_while_a_session_is_open(pixels: Image) -> None:
    artefact = HEADLINES[1]
    with open_artefact(artefact, threads=2) as session:
        with pytest.raises(ModelLoadError) as caught:
            open_artefact(artefact, threads=1)
        assert caught.value.reason == "threads"
        session.run(pixels)
    open_artefact(artefact, threads=1).close()


def test_executorch_without_its_library_says_what_to_build(tmp_path: Path) -> None:
    from device.runtimes.executorch import ExecuTorchRuntime

    with pytest.raises(MissingDependencyError) as caught:
        ExecuTorchRuntime(tmp_path).open(HEADLINES[1].path, input=PIXELS, output=REAL_SCORES, threads=1)
    assert "make native" in str(caught.value)
    (tmp_path / "libghostwatt_executorch.so").write_bytes(b"no library")
    with pytest.raises(MissingDependencyError) as caught:
        assert ExecuTorchRuntime(tmp_path).version
    assert caught.value.reason == "not_loadable"


PREAMBLE = """
import os, sys, tempfile
from pathlib import Path
import msgspec
import numpy as np
from device.contract import TensorSpec
from device.core.errors import InferenceError, ModelLoadError
from device.runtimes.registry import RUNTIMES

path = Path(sys.argv[2])
input, output = (msgspec.json.decode(text, type=TensorSpec) for text in sys.argv[3:5])
runtime = RUNTIMES.load(sys.argv[1])()
count_threads = lambda: len(os.listdir("/proc/self/task"))
scratch = Path(tempfile.mkdtemp(dir=sys.argv[5]))
"""


def run_script(artefact: Artefact, script: str) -> str:
    """Runs ``script`` in a fresh process; a crash or a hang there fails the test."""
    load_runtime(artefact.runtime)
    specs = [msgspec.json.encode(spec).decode() for spec in (PIXELS, artefact.output)]
    with tempfile.TemporaryDirectory() as scratch:
        done = subprocess.run(
            [sys.executable, "-c", PREAMBLE + script, artefact.runtime, str(artefact.path), *specs, scratch],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            cwd=Path(__file__).parents[2],
        )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()
