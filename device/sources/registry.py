"""The frame sources that there are: a URI's scheme, and the class."""

from __future__ import annotations

from device.core.registry import Registry

SOURCES = Registry(
    "source",
    {
        "images": "device.sources.images:ImagesSource",
        "video": "device.sources.video:VideoSource",
        "synthetic": "device.sources.synthetic:SyntheticSource",
        "v4l2": "device.sources.v4l2.source:V4l2Source",
        "picamera2": "device.sources.picamera2:Picamera2Source",
        "rtsp": "device.sources.stream.rtsp:RtspSource",
        "rtsps": "device.sources.stream.rtsp:RtspsSource",
        "http": "device.sources.stream.mjpeg:MjpegSource",
        "https": "device.sources.stream.mjpeg:MjpegsSource",
    },
    base="device.sources.base:BaseSource",
)
