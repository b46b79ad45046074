# The emulated board; included by the Makefile above, which sets PYTHON, PYTHON_BASE, PARALLEL, ARGS and `setup`.

.PHONY: setup-board board-bundle test-arm test-board test-upgrade arm-cost arm-compare

# The Pi 4's bundle is the Pi 5's too, in all but the profile. The converter does again only what has changed.
board-bundle: setup
	@$(PYTHON) -m converter --profile rpi4

setup-board: ## install the packages that the emulated board and the camera servers need (apt, with sudo)
	@$(PYTHON_BASE) tests/board/harness/packages.py

test-arm: board-bundle ## run the board's install on ARM code (qemu-user)
	@$(PYTHON) -m pytest tests/board -m arm $(PARALLEL) $(ARGS)

# Two boards at a time, each told its story in order; which story comes first is tests/board/conftest.py's.
TWO_BOARDS := --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-board: board-bundle ## boot the emulated board, run the daemon on its cameras and sensors, and picamera2 on a virtual camera
	@$(PYTHON) -m pytest tests/board -m "board or camera or debian" $(TWO_BOARDS) $(ARGS)

test-upgrade: board-bundle ## deploy the release FROM=REVISION on the booted board, then this one, then the old one again
	@test -n "$(FROM)" || { echo "error: FROM= is missing; expected a revision, such as a tag" >&2; exit 2; }
	@GHOSTWATT_UPGRADE_FROM="$(FROM)" $(PYTHON) -m pytest tests/board -m upgrade $(ARGS)

arm-cost: board-bundle ## count ARM instructions per inference (ARGS=--update sets the budget)
	@$(PYTHON) -m tests.board.arm_cost $(ARGS)

arm-compare: setup ## add the ARM instructions of what `make compare` compared
	@$(PYTHON) -m tests.board.arm_compare $(ARGS)
