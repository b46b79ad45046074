# Boards; included by the Makefile above, which sets PYTHON, PYTHON_BASE, CONVERT, PROFILE, BUNDLE and ARGS.
#
#   HOST=pi@board       a board, as ssh takes it
#   HOSTS=FILE          boards, one a line: [user@]host [profile]
#   PROFILE=rpi4        of HOST=, and of the boards of HOSTS= that name none: without it, host is not meant
#   CANARY=1            the first board alone, the others only if it came up
#   SIGNERS=FILE        boards take only bundles that these have signed
#   ARGS='--with mqtt'  packages beside those that the profile needs; --dry-run, --json and others: ARGS=--help

.PHONY: deploy install

HOST ?=
HOSTS ?=
CANARY ?=
SIGNERS ?=

# The Makefile's default, host, is of the computer that converts.
NAMED_PROFILE := $(if $(filter file,$(origin PROFILE)),,$(PROFILE))
BOARDS := $(if $(HOSTS),--hosts "$(HOSTS)",--host "$(HOST)") \
	$(if $(BUNDLE),--bundle "$(BUNDLE)",$(if $(NAMED_PROFILE),--profile $(NAMED_PROFILE)))
WISHES := $(if $(SIGNERS),--signers "$(SIGNERS)") $(ARGS)

deploy: setup ## install as a service on HOST=pi@board PROFILE=rpi4, or on HOSTS=file, a board and its profile a line (CANARY=1)
	@test -n "$(HOST)$(HOSTS)" || { echo "error: HOST= is missing; expected HOST=pi@board, or HOSTS=file" >&2; exit 2; }
	@profiles=$$($(PYTHON) -m converter.deploy $(BOARDS) --list-profiles) && for profile in $$profiles; do \
		$(MAKE) --no-print-directory convert PROFILE="$$profile" ARGS= || exit; done
	@$(PYTHON) -m converter.deploy $(BOARDS) $(if $(CANARY),--canary) $(WISHES)

install: ## on a board: install this checkout as a service (BUNDLE=DIR; needs python3-pip and g++, no torch)
	@$(PYTHON_BASE) -m converter.deploy --here $(if $(BUNDLE),--bundle "$(BUNDLE)",--profile $(PROFILE)) $(WISHES)
