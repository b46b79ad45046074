"""What a frame costs outside inference: processor time from the camera's buffer to the network's answer, by kind of source.

Each source's own conversion runs through the real `Pipeline` with a network that answers at once; what is counted is the whole
process, threads and all. Beside it stands the loop of picamera2's TFLite example: it makes an array of the full frame, converts
and scales it in Python, and opens a new interpreter for every frame. It is flattered: it reads colour where the example reads
grey, its interpreter has one thread, its answer isn't looked at, and nothing is drawn.

What a USB camera packs, and a file, must be unpacked, which the stock loop on the Pi's own camera is spared.

The camera's memory is plain memory here. On a Pi it is uncached, where every pass over the full frame costs more.

References:
    raspberrypi/picamera2, examples/tensorflow/real_time.py.
"""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from ai_edge_litert.interpreter import Interpreter

from device.bundle import Bundle, open_bundle
from device.contract import Artefact, Preprocessing, RateLimits
from device.core.clock import SystemClock
from device.core.errors import UsageError
from device.core.resources import Resource
from device.daemon.pipeline import Pipeline
from device.image.opencv import convert_raw, decode_jpeg
from device.image.preprocess import least_side_px
from device.protocols import Array, Event, FrameDamaged, FrameDone, FrameSource, Image
from device.sources.base import SourceOptions
from device.sources.isp import choose_stream_sizes, copy_yuv420, yuv420_to_rgb
from device.sources.live import LiveSource, Picture
from device.sources.synthetic import SyntheticSource
from device.sources.video import VideoSource

ROUNDS = 5
WARM_UP = 10
SCENES = 4
STOCK_FRAMES_SHARE = 10
"""A new interpreter takes so long that a tenth of the frames is enough."""

STOCK = "stock loop"
STOCK_FRAMES = "stock loop, but one interpreter"

JPEG_QUALITY = 85
ISP_ALIGNMENT = 64
"""Of a row of luma: the Pi 4's ISP pads to 32 bytes, and twice that in planar YUV."""

SizePx = tuple[int, int]


class Figure(NamedTuple):
    """Of one way to get frames.

    Attributes:
        cpu_ms: processor time a frame, in milliseconds; median of the rounds.
        cpu_ms_min: of the best round.
        cpu_ms_max: of the worst.
        of_stock: share of the stock loop's, round by round; median.
        of_stock_frames: share of what the stock loop spends without its interpreter.
    """

    cpu_ms: float
    cpu_ms_min: float
    cpu_ms_max: float
    of_stock: float
    of_stock_frames: float


# --- frames -----------------------------------------------------------------------------------------------------------


def paint_scene(size_px: SizePx, seed: int) -> Image:
    """A picture with texture of every fineness, as a photograph has: JPEG's cost depends on it."""
    width, height = size_px
    random = np.random.default_rng(seed)
    scene = np.full((height, width, 3), 128.0, np.float32)
    for octave in range(2, 9):
        coarse = random.normal(0.0, 60.0 / octave, (2**octave, 2**octave, 3)).astype(np.float32)
        scene += cv2.resize(coarse, size_px, interpolation=cv2.INTER_CUBIC)
    return np.asarray(np.clip(scene, 0, 255).astype(np.uint8))


def lay_out_yuv420(scene: Image, size_px: SizePx) -> tuple[Image, int]:
    """Scales as the ISP does, and lays the planes out in padded rows; gives the buffer and the bytes of a row."""
    width, height = size_px
    planes = cv2.cvtColor(cv2.resize(scene, size_px, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2YUV_I420)
    stride_bytes = -(-width // ISP_ALIGNMENT) * ISP_ALIGNMENT
    luma = np.zeros((height, stride_bytes), np.uint8)
    luma[:, :width] = planes[:height]
    chroma = np.zeros((height, stride_bytes // 2), np.uint8)
    chroma[:, : width // 2] = planes[height:].reshape(height, width // 2)
    return np.concatenate([luma.ravel(), chroma.ravel()]), stride_bytes


def lay_out_yuyv(scene: Image) -> bytes:
    """Packs pairs of pixels as Y, U, Y, V."""
    yuv = cv2.cvtColor(scene, cv2.COLOR_RGB2YUV)
    packed = np.empty((*yuv.shape[:2], 2), np.uint8)
    packed[..., 0] = yuv[..., 0]
    packed[:, 0::2, 1], packed[:, 1::2, 1] = yuv[:, 0::2, 1], yuv[:, 0::2, 2]
    return packed.tobytes()


def encode_jpeg(scene: Image) -> bytes:
    """As a webcam does: colour at half the resolution across."""
    flags = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422]
    _, data = cv2.imencode(".jpg", cv2.cvtColor(scene, cv2.COLOR_RGB2BGR), flags)
    return data.tobytes()


def write_video(path: Path, scenes: list[Image], frames: int) -> None:
    """Writes the scenes in turn, as MPEG-4."""
    height, width = scenes[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"mp4v"), 30.0, (width, height))
    if not writer.isOpened():
        raise UsageError(
            "benchmark", "this OpenCV can't write MPEG-4", remedy="pip install opencv-python-headless", reason="flags"
        )
    for index in range(frames):
        writer.write(cv2.cvtColor(scenes[index % len(scenes)], cv2.COLOR_RGB2BGR))
    writer.release()


# --- our ways ---------------------------------------------------------------------------------------------------------


class ReplayCapture:
    """A camera that gives a buffer whenever the network has looked at the last one. See `device.sources.live.Capture`."""

    rate_fps = None

    def __init__(self, buffers: list[object], convert: Callable[..., Image], gate: threading.Semaphore) -> None:
        self._buffers = buffers
        self._convert = convert
        self._gate = gate
        self._next = 0

    def read(self) -> Picture | None:
        if not self._gate.acquire(timeout=0.2):
            return None
        self._next += 1
        return Picture(self._convert(self._buffers[self._next % len(self._buffers)]))

    def close(self) -> None:
        """Holds nothing."""


class InstantSession(Resource):
    """A network that answers at once, with the bundle's own shapes."""

    threads = 1

    def __init__(self, artefact: Artefact, gate: threading.Semaphore) -> None:
        self.input = artefact.input
        self.output = artefact.output
        self._gate = gate
        self._answer = np.zeros(self.output.shape, self.output.dtype)

    def run(self, pixels: Image) -> Array:
        if pixels.shape != self.input.shape:
            raise ValueError(f"{pixels.shape} instead of {self.input.shape}")
        self._gate.release()
        return self._answer


class Stopwatch:
    """Counts the process's processor time from the end of the warm-up on."""

    def __init__(self, frames: int) -> None:
        self._last = WARM_UP + frames
        self._seen = 0
        self._started_s = self._ended_s = 0.0

    @property
    def cpu_s(self) -> float:
        """Of the frames after the warm-up."""
        return self._ended_s - self._started_s

    def __call__(self, event: Event) -> None:
        if isinstance(event, FrameDamaged):
            raise event.error
        if not isinstance(event, FrameDone):
            return
        self._seen += 1
        if self._seen == WARM_UP:
            self._started_s = time.process_time()
        elif self._seen == self._last:
            self._ended_s = time.process_time()


Opener = Callable[[threading.Semaphore], FrameSource]


def our_ways(scenes: list[Image], preprocessing: Preprocessing, video: Path) -> dict[str, Opener]:
    """By name, how to open each kind of source, on the same scenes."""
    height, width = scenes[0].shape[:2]
    lores_px = choose_stream_sizes(preprocessing, (width, height)).lores_px
    planar = [lay_out_yuv420(scene, lores_px) for scene in scenes]
    jpegs = [encode_jpeg(scene) for scene in scenes]
    least_px = least_side_px(preprocessing)

    def convert_planar(buffer: Image) -> Image:
        picture = copy_yuv420(buffer, lores_px, planar[0][1]).data
        return convert_raw(picture, "replay", fourcc="YU12", width_px=lores_px[0], height_px=lores_px[1])

    def convert_by_tables(buffer: Image) -> Image:
        return yuv420_to_rgb(copy_yuv420(buffer, lores_px, planar[0][1]), lores_px)

    def replay(buffers: list[object], convert: Callable[..., Image]) -> Opener:
        return lambda gate: LiveSource("replay:", lambda: ReplayCapture(buffers, convert, gate), SourceOptions())

    planes: list[object] = [buffer for buffer, _ in planar]
    by_isp = f"YUV420 {lores_px[0]}x{lores_px[1]} by the ISP"
    return {
        f"picamera2, {by_isp}": replay(planes, convert_planar),
        f"picamera2, {by_isp}, no OpenCV": replay(planes, convert_by_tables),
        "V4L2, YUYV": replay(
            [lay_out_yuyv(scene) for scene in scenes],
            lambda data: convert_raw(data, "replay", fourcc="YUYV", width_px=width, height_px=height),
        ),
        "V4L2 or HTTP, MJPEG": replay(list(jpegs), lambda data: decode_jpeg(data, "replay", least_side_px=least_px)),
        "MJPEG, decoded in full": replay(list(jpegs), lambda data: decode_jpeg(data, "replay")),
        "video file, MPEG-4": lambda _: VideoSource(video),
        "synthetic": lambda _: SyntheticSource(width, height),
    }


def measure_ours(
    opener: Opener, artefact: Artefact, preprocessing: Preprocessing, labels: tuple[str, ...], frames: int
) -> float:
    """Processor time a frame, in seconds."""
    gate = threading.Semaphore(1)
    stopwatch = Stopwatch(frames)
    with opener(gate) as source, InstantSession(artefact, gate) as session:
        Pipeline(
            [source],
            session,
            preprocessing=preprocessing,
            labels=labels,
            limits=RateLimits(),
            clock=SystemClock(),
            stall_timeout_s=10.0,
        ).run(stopwatch, max_frames=WARM_UP + frames)
    return stopwatch.cpu_s / frames


# --- the stock loop ---------------------------------------------------------------------------------------------------


def measure_stock(scenes: list[Image], model: Path, frames: int, *, is_interpreter_new: bool) -> float:
    """Processor time a frame, in seconds, without the inference itself."""
    height, width = scenes[0].shape[:2]
    # picamera2's default format for the main stream: R, G, B and a byte of padding.
    buffers = [cv2.cvtColor(scene, cv2.COLOR_RGB2RGBA).ravel() for scene in scenes]
    kept = open_interpreter(model)

    def step(index: int) -> None:
        array = buffers[index % len(buffers)].copy().reshape(height, width, 4)
        interpreter = open_interpreter(model) if is_interpreter_new else kept
        details = interpreter.get_input_details()[0]
        _, input_height, input_width, _ = details["shape"]
        picture = cv2.resize(cv2.cvtColor(array, cv2.COLOR_RGBA2RGB), (int(input_width), int(input_height)))
        interpreter.set_tensor(details["index"], np.expand_dims(picture, axis=0).astype(details["dtype"], copy=False))

    step(0)
    started_s = time.process_time()
    for index in range(frames):
        step(index)
    return (time.process_time() - started_s) / frames


def open_interpreter(model: Path) -> Interpreter:
    """As the example opens it, but on one thread."""
    interpreter = Interpreter(model_path=str(model), num_threads=1)
    interpreter.allocate_tensors()
    return interpreter


# --- both -------------------------------------------------------------------------------------------------------------


@contextmanager
def prepared(bundle: Bundle, size_px: SizePx, frames: int) -> Iterator[dict[str, Callable[[], float]]]:
    """By name, what measures a way once."""
    artefact = bundle.artefact("litert")
    model = bundle.path(artefact.file)
    preprocessing = bundle.manifest.model.preprocessing
    scenes = [paint_scene(size_px, seed) for seed in range(SCENES)]
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder) / "scenes.mp4"
        # A few more than are read: the reader is one ahead of the network.
        write_video(video, scenes, WARM_UP + frames + 5)
        stock_frames = max(1, frames // STOCK_FRAMES_SHARE)
        measures: dict[str, Callable[[], float]] = {
            STOCK: lambda: measure_stock(scenes, model, stock_frames, is_interpreter_new=True),
            STOCK_FRAMES: lambda: measure_stock(scenes, model, frames, is_interpreter_new=False),
        }
        for name, opener in our_ways(scenes, preprocessing, video).items():
            measures[name] = lambda opener=opener: measure_ours(  # type: ignore[misc]
                opener, artefact, preprocessing, bundle.labels, frames
            )
        yield measures


def measure(bundle: Path, size_px: SizePx, frames: int) -> dict[str, Figure]:
    """Measures every way in turns, so that a machine that slows down slows all of them.

    Args:
        bundle: whose network the frames are for.
        size_px: width and height of the frames that the cameras give; the ISP's are as small as the network allows.
        frames: of each round.
    """
    with prepared(open_bundle(bundle), size_px, frames) as measures:
        rounds = [{name: measure_once() for name, measure_once in measures.items()} for _ in range(ROUNDS)]
    return {name: summarise(rounds, name) for name in rounds[0]}


def summarise(rounds: list[dict[str, float]], name: str) -> Figure:
    """Medians; the ratios round by round."""
    times_ms = [1e3 * times[name] for times in rounds]
    return Figure(
        cpu_ms=statistics.median(times_ms),
        cpu_ms_min=min(times_ms),
        cpu_ms_max=max(times_ms),
        of_stock=statistics.median(times[name] / times[STOCK] for times in rounds),
        of_stock_frames=statistics.median(times[name] / times[STOCK_FRAMES] for times in rounds),
    )


def print_table(size_px: SizePx, figures: dict[str, Figure]) -> None:
    """One line a way."""
    title = f"frames of {size_px[0]}x{size_px[1]}, outside inference"
    print(f"{title:<44}{'ms of CPU':>10}{'of line 1':>11}{'of line 2':>11}   (least .. most of {ROUNDS})")
    for name, figure in figures.items():
        print(
            f"{name:<44}{figure.cpu_ms:>10.2f}{figure.of_stock:>11.0%}{figure.of_stock_frames:>11.0%}"
            f"   ({figure.cpu_ms_min:.2f} .. {figure.cpu_ms_max:.2f})"
        )
