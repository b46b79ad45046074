"""The frame sources that there are: a URI's scheme, and the class."""

from __future__ import annotations

from device.core.registry import Entry, Registry

_PICAMERA2 = "apt install python3-picamera2, and make the venv with --system-site-packages"
_OPENCV = "install OpenCV: pip install 'ghostwatt[video]', or apt install python3-opencv"

SOURCES = Registry(
    "source",
    {
        "images": Entry("device.sources.images:ImagesSource", _OPENCV),
        "video": Entry("device.sources.video:VideoSource", _OPENCV),
        "synthetic": Entry("device.sources.synthetic:SyntheticSource"),
        "v4l2": Entry("device.sources.v4l2.source:V4l2Source", _OPENCV),
        "picamera2": Entry("device.sources.picamera2:Picamera2Source", _PICAMERA2),
        "rtsp": Entry("device.sources.stream.rtsp:RtspSource", _OPENCV),
        "rtsps": Entry("device.sources.stream.rtsp:RtspsSource", _OPENCV),
        "http": Entry("device.sources.stream.mjpeg:MjpegSource", _OPENCV),
        "https": Entry("device.sources.stream.mjpeg:MjpegsSource", _OPENCV),
    },
)
