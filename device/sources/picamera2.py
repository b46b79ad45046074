"""Frames of a camera on the Pi's ribbon cable, by picamera2. The only module that imports it.

The image signal processor scales and crops: only the pixels that the network needs are copied, and each is read only once from
the camera's memory, which isn't cached. A camera that hangs blocks only the thread that owns it.

References:
    The Picamera2 Library, Raspberry Pi Ltd: streams, requests, formats (``BGR888`` lies in memory as R, G, B).
    libcamera, src/libcamera/control_ids_core.yaml: the controls and their units.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import gc
import importlib.util
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, NoReturn, Self

import msgspec
from msgspec import Meta

from device.core.errors import MissingDependencyError, ProfileError, SourceError, SourceReason
from device.core.plugin import Needs, import_package
from device.core.programs import NOT_THERE, Run
from device.machine.board import detect_board
from device.protocols import Image
from device.sources.base import Diagnosis, SourceOptions, own_options
from device.sources.isp import (
    DEFAULT_SIZE_PX,
    Bytes,
    SensorMode,
    SizePx,
    StreamSizes,
    choose_mode,
    choose_stream_sizes,
    copy_rgb,
    copy_yuv420,
    is_fast_enough,
    sees_enough,
    yuv420_to_rgb,
)
from device.sources.live import LiveSource, Picture

# Longest single wait, so that `close` takes effect soon.
_WAIT_S = 0.25

# Time to receive a frame that is still due when the camera closes.
_HAND_OVER_S = 1.0

_NOISE_REDUCTION = {"off": "Off", "fast": "Fast", "high_quality": "HighQuality", "minimal": "Minimal"}
_FOCUS = {"manual": "Manual", "auto": "Auto", "continuous": "Continuous"}
_MEASURES = ("ExposureTime", "AnalogueGain", "LensPosition")


_LISTING_PROGRAMS = ("rpicam-hello", "libcamera-hello")
"""What lists the cameras that libcamera knows. The second is its name until Bookworm."""

_LISTING_TIMEOUT_S = 5.0
_LISTED_CAMERA = re.compile(r"^\s*\d+ : (\S+) \[([^\]]*)\]", re.MULTILINE)


class Picamera2Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What only a camera on the Pi's ribbon cable can be asked for. None leaves the camera's own choice."""

    buffer_count: Annotated[
        int, Meta(ge=2, le=16, description="Frames that the camera may fill while one is read; each takes contiguous memory.")
    ] = 4
    hflip: Annotated[bool, Meta(description="Mirror left to right, in the camera.")] = False
    vflip: Annotated[bool, Meta(description="Mirror top to bottom, in the camera; with hflip, a turn by 180 degrees.")] = False
    noise_reduction: Annotated[
        Literal["off", "fast", "high_quality", "minimal"] | None, Meta(description="libcamera's NoiseReductionMode.")
    ] = None
    exposure_time_us: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="Fixed exposure; with analogue_gain, it turns the automatic exposure off."),
    ] = None
    analogue_gain: Annotated[Annotated[float, Meta(ge=1.0)] | None, Meta(description="Fixed gain.")] = None
    focus: Annotated[
        Literal["manual", "auto", "continuous"] | None,
        Meta(description="continuous, auto once at the start, or manual at lens_position; only for lenses that move."),
    ] = None
    lens_position: Annotated[
        Annotated[float, Meta(ge=0.0)] | None, Meta(description="In dioptres (1 / metres), for manual focus.")
    ] = None

    def __post_init__(self) -> None:
        if (self.focus == "manual") != (self.lens_position is not None):
            raise ValueError("camera.picamera2.focus: manual and lens_position together, or neither")


class Picamera2Source(LiveSource):
    """A camera on the Pi's ribbon cable, by libcamera; keeps its newest frame.

    Args:
        name: the camera's number, or a part of its model or identifier (``imx708``).
        options: ``rate_fps``, ``preprocessing``, ``own`` and ``clock`` are used; without preprocessing also ``width_px`` and
            ``height_px``.

    Raises:
        SourceError: ``missing`` if there is no such camera, ``busy`` if another program holds it, ``permission`` or ``failed``
            if it can't be configured, ``stalled`` if it doesn't open in time.
        ProfileError: ``unsupported`` if the camera lacks what ``camera.picamera2`` asks for.
        MissingDependencyError: ``not_installed``, or ``abi`` if a module was compiled for another numpy.
    """

    Options: ClassVar[type[msgspec.Struct]] = Picamera2Options
    needs: ClassVar[Needs] = Needs(
        system_packages=("python3-picamera2",),
        # libcamera finds and configures the camera by the media nodes, and its frames lie in memory of dma_heap, or of udmabuf
        # on kernels that have none.
        devices=("char-video4linux", "char-media", "char-drm", "char-dma_heap", "/dev/udmabuf"),
        groups=("video", "render"),
    )

    def __init__(self, name: str = "0", options: SourceOptions | None = None) -> None:
        options = options or SourceOptions()
        uri = f"picamera2:{name}"
        asked = own_options("picamera2", Picamera2Options, options)
        # On a small board the import takes longer than a camera may take to open: before the thread that opens it.
        _import_libraries()
        super().__init__(
            uri,
            lambda: _Picamera2Capture(uri, name, options, asked),
            options,
            remedy="check the ribbon cable at both ends; the kernel's log (dmesg) may say more",
        )

    @classmethod
    def from_uri(cls, rest: str, options: SourceOptions) -> Self:
        """Opens ``picamera2:CAMERA``; without a camera, the first one."""
        return cls(rest or "0", options)

    @classmethod
    def diagnose(cls, root: Path, run: Run) -> Iterator[Diagnosis]:
        """Whether this Python can use libcamera's cameras, and which there are.

        References:
            Raspberry Pi documentation, ``rpicam-hello --list-cameras``; config.txt, ``camera_auto_detect``.
        """
        if not any(name.startswith("raspberrypi,") for name in detect_board(root).compatible):
            yield Diagnosis("picamera2", "unsupported", "no Raspberry Pi: no ribbon cable")
            return
        if importlib.util.find_spec("picamera2") is None:
            yield Diagnosis("picamera2", "broken", "this Python has no picamera2", cls.needs.remedy)
        else:
            yield Diagnosis("picamera2", "ok", "installed")
        yield _list_cameras(run)


def _list_cameras(run: Run) -> Diagnosis:
    for program in _LISTING_PROGRAMS:
        done = run([program, "--list-cameras"], _LISTING_TIMEOUT_S)
        if done.code == NOT_THERE:
            continue
        cameras = [f"{name} ({modes})" for name, modes in _LISTED_CAMERA.findall(done.out + done.err)]
        if cameras:
            return Diagnosis("libcamera", "ok", ", ".join(cameras))
        remedy = (
            "reseat the cable at both ends with the power off; camera_auto_detect=1 in /boot/firmware/config.txt, then reboot"
        )
        return Diagnosis("libcamera", "broken", "no camera on the ribbon cable", remedy)
    finding = f"{_LISTING_PROGRAMS[0]} isn't installed, so no cameras were listed"
    return Diagnosis("libcamera", "unsupported", finding, "sudo apt install rpicam-apps-lite")


def _import_libraries() -> None:
    """Imports picamera2 and libcamera."""
    # libcamera reads this when it loads. Warnings and errors go to stderr; the messages of each start don't.
    os.environ.setdefault("LIBCAMERA_LOG_LEVELS", "*:WARN")
    try:
        for package in ("libcamera", "picamera2"):
            import_package(package, Picamera2Source.needs, "source picamera2")
        from picamera2 import Picamera2  # noqa: F401  # some packages import only when they are asked for a name
    except ValueError as error:
        # A module that picamera2 needs was compiled for another version of numpy.
        raise MissingDependencyError(
            "source picamera2",
            f"can't be imported ({error})",
            expected="modules compiled for this environment's numpy",
            remedy="in the venv: pip install --upgrade simplejpeg, or pip install 'numpy<2'",
            reason="abi",
        ) from error
    # As usual for a library, its log is silent unless the program configures logging. Failures arrive as exceptions.
    log = logging.getLogger("picamera2")
    if not log.handlers:
        log.addHandler(logging.NullHandler())


class _Picamera2Capture:
    """The open camera. See `device.sources.live.Capture`."""

    def __init__(self, uri: str, name: str, options: SourceOptions, asked: Picamera2Options) -> None:
        self._uri = uri
        with _explained(uri):
            self._camera = _open_camera(_find_camera(uri, name))
        try:
            with _explained(uri):
                self._rate_fps = _configure(self._camera, options, asked)
                self._stream = _read_lores_stream(uri, self._camera)
                self._camera.start()
        except BaseException:
            _discard(self._camera)
            raise
        self._job: Any = None

    @property
    def rate_fps(self) -> float | None:
        return self._rate_fps

    def read(self) -> Picture | None:
        try:
            return self._read()
        except (CancelledError, RuntimeError, OSError, ValueError) as error:
            raise SourceError(self._uri, _root_cause(error), expected="a camera that delivers", reason="ended") from error

    def close(self) -> None:
        # The camera may be in any state; buffers that can't be returned are freed along with it.
        with contextlib.suppress(Exception):
            self._camera.cancel_all_and_flush()
        self._give_pending_back()
        _discard(self._camera)
        # picamera2's objects form reference cycles, and hold contiguous memory (CMA), which is scarce and needed to open the
        # camera again.
        self._camera = None
        gc.collect()

    def _read(self) -> Picture | None:
        request = self._wait_for_request()
        if request is None:
            return None
        try:
            from picamera2 import MappedArray

            stamp_ns = request.get_metadata().get("SensorTimestamp")
            with MappedArray(request, "lores", reshape=False, write=False) as mapped:
                copied = self._stream.copy(mapped.array)
        finally:
            # Returned before the conversion, so that the camera can refill the buffer meanwhile.
            request.release()
        timestamp_ns = None if stamp_ns is None else to_monotonic_ns(stamp_ns, time.monotonic_ns(), _boot_time_ns())
        return Picture(self._stream.to_rgb(copied), timestamp_ns)

    def _wait_for_request(self) -> Any:
        """Waits briefly; returns None if no frame came.

        A job that was started is kept until its frame comes: an abandoned one would swallow a frame along with its buffer.
        """
        if self._job is None:
            self._job = self._camera.capture_request(wait=False)
        try:
            request = self._job.get_result(timeout=_WAIT_S)
        except TimeoutError:
            return None
        self._job = None
        return request

    def _give_pending_back(self) -> None:
        job, self._job = self._job, None
        if job is not None:
            with contextlib.suppress(Exception):
                job.get_result(timeout=_HAND_OVER_S).release()


# --- finding and opening ----------------------------------------------------------------------------------------------


def _find_camera(uri: str, name: str) -> int:
    """Finds a camera's number by its number, or by a part of its model or identifier."""
    from picamera2 import Picamera2

    cameras = Picamera2.global_camera_info()
    if not cameras:
        raise SourceError(
            uri,
            "libcamera finds no camera",
            expected="a camera on the ribbon cable",
            remedy="check the cable; rpicam-hello --list-cameras lists cameras",
            reason="missing",
        )
    found = [number for number, camera in enumerate(cameras) if _is_named(camera, number, name)]
    if len(found) == 1:
        return found[0]
    listing = ", ".join(f"{number} ({camera.get('Model', '?')}, {camera['Id']})" for number, camera in enumerate(cameras))
    what = f"no camera {name!r}" if not found else f"{len(found)} cameras match {name!r}"
    raise SourceError(uri, what, expected=f"one of {listing}", reason="missing")


def _is_named(camera: dict[str, Any], number: int, name: str) -> bool:
    if name.isdecimal():
        return number == int(name)
    return any(name.lower() in str(camera.get(key, "")).lower() for key in ("Model", "Id"))


def _open_camera(number: int) -> Any:
    # In two steps, to be able to clean up after a failed constructor: a busy camera is retried over and over.
    from picamera2 import Picamera2

    camera = Picamera2.__new__(Picamera2)
    try:
        camera.__init__(number)
    except BaseException:
        _discard(camera)
        raise
    # picamera2 closes the camera at exit, which would keep a program whose camera hangs from ending.
    atexit.unregister(camera.close)
    return camera


def _discard(camera: Any) -> None:
    """Closes a camera in any state, along with the pipe that a failed opening leaves behind."""
    with contextlib.suppress(Exception):
        camera.close()
    pipe = getattr(camera, "notifymeread", None)
    if pipe is not None and not pipe.closed:
        pipe.close()
        os.close(camera.notifyme_w)


@contextlib.contextmanager
def _explained(uri: str) -> Iterator[None]:
    """Turns what picamera2 and libcamera raise into a `SourceError` of one line."""
    try:
        yield
    except (RuntimeError, OSError, ValueError) as error:
        _raise_explained(uri, error)


def _raise_explained(uri: str, error: Exception) -> NoReturn:
    text = _root_cause(error)
    # Older versions of picamera2 give the errno (EBUSY) instead of the word.
    if "busy" in text.lower() or text.endswith(f"-{errno.EBUSY}"):
        raise SourceError(
            uri,
            f"another program holds the camera ({text})",
            expected="a free camera",
            remedy="end that program: rpicam-*, libcamera-*, or another run of this one",
            reason="busy",
        ) from error
    reason: SourceReason = "failed"
    if isinstance(error, PermissionError):
        reason, remedy = "permission", Picamera2Source.needs.permission_remedy
    elif "allocat" in text.lower():
        remedy = "ask for fewer buffers (camera.picamera2.buffer_count), or give the kernel more CMA memory"
    else:
        remedy = "run rpicam-hello to see whether the camera works at all"
    raise SourceError(uri, f"the camera can't be configured ({text})", remedy=remedy, reason=reason) from error


def _root_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error) or type(error).__name__


# --- configuration ----------------------------------------------------------------------------------------------------


def _configure(camera: Any, options: SourceOptions, asked: Picamera2Options) -> float | None:
    """Sets streams, sensor mode and controls; returns the rate that the camera will keep, None if unknown."""
    import libcamera
    from picamera2 import Picamera2

    size_px = (options.width_px or DEFAULT_SIZE_PX[0], options.height_px or DEFAULT_SIZE_PX[1])
    streams = choose_stream_sizes(options.preprocessing, tuple(camera.sensor_resolution), size_px)
    lores_format = "BGR888" if Picamera2.platform.name == "PISP" else "YUV420"

    def configure(sensor_px: SizePx | None) -> None:
        configuration = camera.create_video_configuration(
            main={"size": streams.main_px, "format": "YUV420"},
            lores={"size": streams.lores_px, "format": lores_format},
            # Raw buffers would take most of the memory, and nobody reads them.
            raw=None,
            transform=libcamera.Transform(hflip=asked.hflip, vflip=asked.vflip),
            # The range and matrix that `yuv420_to_rgb` expects.
            colour_space=libcamera.ColorSpace.Smpte170m(),
            buffer_count=asked.buffer_count,
            queue=False,
            display=None,
            encode=None,
            **({} if sensor_px is None else {"sensor": {"output_size": sensor_px}}),
        )
        camera.configure(configuration)

    _choose_sensor_mode(camera, options, streams, configure)
    _require_transform(camera, asked)
    _require_streams(camera, streams, lores_format)
    controls = _controls(camera, asked, options.rate_fps)
    camera.set_controls(controls)
    duration_us = controls.get("FrameDurationLimits", (0, 0))[0]
    return 1e6 / duration_us if duration_us else None


def _choose_sensor_mode(
    camera: Any, options: SourceOptions, streams: StreamSizes, configure: Callable[[SizePx | None], None]
) -> None:
    """Configures the camera with the sensor's best mode. A mode's field of view is known only once it is set."""
    array_px = _sensor_px(camera)
    if array_px is None:
        configure(None)
        return
    rate_fps = options.rate_fps
    modes: list[SensorMode] = []
    for size_px in _sensor_sizes(camera, streams.main_px):
        configure(size_px)
        mode = _read_mode(camera, size_px)
        modes.append(mode)
        if sees_enough(mode, array_px, options.preprocessing) and is_fast_enough(mode, rate_fps):
            # Sizes are in ascending order: no later one is cheaper.
            return
    configure(choose_mode(modes, array_px, options.preprocessing, rate_fps).size_px if modes else None)


def _sensor_px(camera: Any) -> SizePx | None:
    """Width and height of the whole sensor; None if the Pi's ISP doesn't read it."""
    properties = camera.camera_properties
    if "ColorFilterArrangement" not in properties or not {"ScalerCrop", "FrameDurationLimits"} <= camera.camera_controls.keys():
        return None
    width, height = properties["PixelArraySize"]
    return int(width), int(height)


def _sensor_sizes(camera: Any, least_px: SizePx) -> list[SizePx]:
    import libcamera

    formats = camera.camera.generate_configuration([libcamera.StreamRole.Raw]).at(0).formats
    sizes = {(size.width, size.height) for pixel_format in formats.pixel_formats for size in formats.sizes(pixel_format)}
    fitting = [size for size in sizes if size[0] >= least_px[0] and size[1] >= least_px[1]]
    return sorted(fitting or sizes, key=lambda size: size[0] * size[1])


def _read_mode(camera: Any, size_px: SizePx) -> SensorMode:
    controls = camera.camera_controls
    _, _, width, height = controls["ScalerCrop"][1]
    return SensorMode(size_px, (width, height), 1e6 / controls["FrameDurationLimits"][0])


def _require_transform(camera: Any, asked: Picamera2Options) -> None:
    given = camera.camera_configuration()["transform"]
    for name in ("hflip", "vflip"):
        if bool(getattr(given, name)) != getattr(asked, name):
            raise _unsupported(name, "the camera can't be mirrored", "false; camera.rotate_deg turns frames in software")


def _require_streams(camera: Any, streams: StreamSizes, lores_format: str) -> None:
    """Checks the streams that libcamera set. A larger picture of the same aspect ratio is accepted: some ISPs can't scale down
    as far.
    """
    import libcamera

    configuration = camera.camera_configuration()
    lores = configuration["lores"]
    width, height = lores["size"]
    wanted_width, wanted_height = streams.lores_px
    is_scaled = width >= wanted_width and abs(width * wanted_height - height * wanted_width) <= 2 * max(streams.lores_px)
    if lores["format"] != lores_format or not is_scaled:
        raise RuntimeError(
            f"libcamera gives {width}x{height} {lores['format']} instead of {wanted_width}x{wanted_height} {lores_format}"
        )
    if lores_format == "YUV420" and configuration["colour_space"] != libcamera.ColorSpace.Smpte170m():
        raise RuntimeError(f"libcamera gives the colour space {configuration['colour_space']} instead of SMPTE170M")


_KEYS = {
    "NoiseReductionMode": "noise_reduction",
    "ExposureTime": "exposure_time_us",
    "AnalogueGain": "analogue_gain",
    "AfMode": "focus",
    "LensPosition": "lens_position",
}


def _controls(camera: Any, asked: Picamera2Options, rate_fps: float | None) -> dict[str, Any]:
    """The controls that the profile sets, by libcamera's names."""
    import libcamera

    known = camera.camera_controls
    controls = _requested_controls(asked)
    for name, value in controls.items():
        _require_control(known, name, value)
    if asked.focus == "auto":
        controls["AfTrigger"] = libcamera.controls.AfTriggerEnum.Start
    # AeEnable isn't set: a fixed exposure or gain turns its automatic off anyway, whereas AeEnable may freeze the current
    # values, depending on the order in which libcamera applies the controls.
    if rate_fps is not None and "FrameDurationLimits" in known:
        shortest_us, longest_us = known["FrameDurationLimits"][:2]
        duration_us = min(max(round(1e6 / rate_fps), shortest_us), longest_us)
        _require_time_to_expose(asked, duration_us)
        controls["FrameDurationLimits"] = (duration_us, duration_us)
    return controls


def _requested_controls(asked: Picamera2Options) -> dict[str, Any]:
    import libcamera

    controls: dict[str, Any] = {}
    if asked.noise_reduction is not None:
        modes = libcamera.controls.draft.NoiseReductionModeEnum
        controls["NoiseReductionMode"] = getattr(modes, _NOISE_REDUCTION[asked.noise_reduction])
    if asked.focus is not None:
        controls["AfMode"] = getattr(libcamera.controls.AfModeEnum, _FOCUS[asked.focus])
    for name in _MEASURES:
        value = getattr(asked, _KEYS[name])
        if value is not None:
            controls[name] = value
    return controls


def _require_control(known: Mapping[str, Any], name: str, value: Any) -> None:
    if name not in known:
        raise _unsupported(_KEYS[name], f"the camera has no {name}", "null, or another camera")
    least, most = known[name][:2]
    # Some controls have no range before the camera runs; their maximum is 0 then.
    if name in _MEASURES and most > least and not least <= value <= most:
        # libcamera would silently use the nearest possible value.
        raise _unsupported(_KEYS[name], str(value), f"{least:g} to {most:g}, the camera's range")


def _require_time_to_expose(asked: Picamera2Options, duration_us: int) -> None:
    if asked.exposure_time_us is not None and asked.exposure_time_us > duration_us:
        raise _unsupported(
            "exposure_time_us", f"{asked.exposure_time_us}", f"at most {duration_us}, the length of a frame at camera.rate_fps"
        )


def _unsupported(key: str, found: str, expected: str) -> ProfileError:
    return ProfileError(f"camera.picamera2.{key}", found, expected=expected, reason="unsupported")


# --- pictures ---------------------------------------------------------------------------------------------------------


class _LoresStream(NamedTuple):
    """Layout of the pixels in the second stream's buffers."""

    is_rgb: bool
    size_px: SizePx
    stride_bytes: int
    convert: Callable[[Bytes, SizePx], Image]

    def copy(self, buffer: Bytes) -> Bytes:
        """Copies a picture out of the camera's memory in one pass: as RGB, or in planes for `to_rgb`."""
        copy = copy_rgb if self.is_rgb else copy_yuv420
        return copy(buffer, self.size_px, self.stride_bytes)

    def to_rgb(self, copied: Bytes) -> Image:
        return copied if self.is_rgb else self.convert(copied, self.size_px)


def _read_lores_stream(uri: str, camera: Any) -> _LoresStream:
    lores = camera.camera_configuration()["lores"]
    return _LoresStream(lores["format"] == "BGR888", tuple(lores["size"]), lores["stride"], find_conversion(uri))


def find_conversion(where: str) -> Callable[[Bytes, SizePx], Image]:
    """Chooses the conversion of YUV 4:2:0: OpenCV's if it is installed, else ours. OpenCV is faster; the pixels are the same.

    Args:
        where: the camera's URI, for errors.

    Returns:
        A function with the arguments and result of `device.sources.isp.yuv420_to_rgb`.
    """
    if importlib.util.find_spec("cv2") is None:
        return yuv420_to_rgb
    from device.image.opencv import convert_raw

    return lambda planes, size_px: convert_raw(planes.data, where, fourcc="YU12", width_px=size_px[0], height_px=size_px[1])


def _boot_time_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def to_monotonic_ns(stamp_ns: int, monotonic_ns: int, boot_ns: int) -> int:
    """Converts libcamera's ``SensorTimestamp`` to the monotonic clock.

    According to libcamera's documentation it is a time of ``CLOCK_BOOTTIME``, which includes the time that a board was
    suspended; but the Pi's pipelines pass on the kernel drivers' stamps, which are of ``CLOCK_MONOTONIC``. A stamp in the
    monotonic clock's future must be of ``CLOCK_BOOTTIME``.

    Args:
        stamp_ns: as reported by libcamera.
        monotonic_ns: current time of the monotonic clock.
        boot_ns: current time of ``CLOCK_BOOTTIME``.

    References:
        libcamera, src/libcamera/control_ids_core.yaml, SensorTimestamp.
        Linux kernel, Documentation/userspace-api/media/v4l/buffer.rst, V4L2_BUF_FLAG_TIMESTAMP_MONOTONIC.
    """
    return stamp_ns if stamp_ns <= monotonic_ns else stamp_ns - (boot_ns - monotonic_ns)
