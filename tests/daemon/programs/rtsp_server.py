# mypy: ignore-errors
"""Serves pictures as an H.264 stream by GStreamer's RTSP server. Run by the system's Python, which has its bindings.

python3 rtsp_server.py PORT PATTERN COUNT RATE_FPS USER PASSWORD
"""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtsp, GstRtspServer  # noqa: E402 - only after their versions were chosen

ELEMENTS = ("multifilesrc", "jpegdec", "videoconvert", "x264enc", "rtph264pay")


def require_elements() -> None:
    """Names what isn't installed."""
    missing = [name for name in ELEMENTS if Gst.ElementFactory.find(name) is None]
    if missing:
        sys.exit(f"GStreamer lacks {', '.join(missing)}")


def make_factory(pattern: str, count: int, rate_fps: int) -> GstRtspServer.RTSPMediaFactory:
    """One encoder, whose stream all viewers share."""
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(
        f"( multifilesrc location={pattern} loop=true start-index=0 stop-index={count - 1}"
        f" caps=image/jpeg,framerate={rate_fps}/1"
        " ! jpegdec ! videoconvert ! video/x-raw,format=I420"
        f" ! x264enc tune=zerolatency speed-preset=ultrafast threads=1 key-int-max={rate_fps}"
        " ! rtph264pay name=pay0 pt=96 config-interval=1 )"
    )
    factory.set_shared(True)
    permissions = GstRtspServer.RTSPPermissions()
    permissions.add_permission_for_role("viewer", "media.factory.access", True)
    permissions.add_permission_for_role("viewer", "media.factory.construct", True)
    factory.set_permissions(permissions)
    return factory


def make_auth(user: str, password: str) -> GstRtspServer.RTSPAuth:
    """Digest, as cameras ask for it."""
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", "viewer")
    auth = GstRtspServer.RTSPAuth()
    auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
    auth.add_digest(user, password, token)
    return auth


def main() -> None:
    """Serves for ever."""
    Gst.init(None)
    require_elements()
    if sys.argv[1:] == ["--check"]:
        return
    port, pattern, count, rate_fps, user, password = sys.argv[1:]
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(port)
    server.set_auth(make_auth(user, password))
    server.get_mount_points().add_factory("/stream", make_factory(pattern, int(count), int(rate_fps)))
    if not server.attach(None):
        sys.exit(f"can't listen on port {port}")
    GLib.MainLoop().run()


if __name__ == "__main__":
    main()
