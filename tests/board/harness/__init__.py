"""A board in a box: an arm64 Debian, its kernel and its sensors' drivers, emulated on an x86-64 Linux machine.

Three lanes share it. The user-mode lane (`user.ArmUser`) runs arm64 programs under qemu-user: real ARM code, the host's kernel.
The booted lane (`guest.boot`) boots a kernel under qemu-system: real drivers, real systemd. The camera lane
(`camera.CameraBoard`) runs picamera2 on the host's own processor. They prove what is computed, and none says anything about
time or watts.

Nothing arm64 runs while the trees are built: packages are only unpacked. What is built lies in a cache outside the repository
(`cache`), and what the host must have installed is listed in one place (`packages`).
"""
