# Boards; included by the Makefile above, which sets PYTHON, PYTHON_BASE, CONVERT, PROFILE, BUNDLE and ARGS.
#
#   HOST=pi@board       a board, as ssh takes it
#   HOSTS=FILE          boards, one a line: [user@]host [profile]
#   CANARY=1            the first board alone, the others only if it came up
#   SIGNERS=FILE        boards take only bundles that these have signed
#   ARGS='--with mqtt'  packages beside those that the profile needs; --dry-run, --json and others: ARGS=--help

.PHONY: deploy install

HOST ?=
HOSTS ?=
CANARY ?=
SIGNERS ?=

DEPLOY := $(if $(BUNDLE),--bundle "$(BUNDLE)",--profile $(PROFILE)) $(if $(SIGNERS),--signers "$(SIGNERS)") $(ARGS)

deploy: setup ## install on HOST=pi@board, or HOSTS=file, as a service (PROFILE=rpi4, CANARY=1)
	@test -n "$(HOST)$(HOSTS)" || { echo "error: HOST= is missing; expected HOST=pi@board, or HOSTS=file" >&2; exit 2; }
	@$(if $(BUNDLE),:,$(CONVERT))
	@$(PYTHON) -m converter.deploy $(if $(HOSTS),--hosts "$(HOSTS)",--host "$(HOST)") $(if $(CANARY),--canary) $(DEPLOY)

install: ## on a board: install this checkout as a service (BUNDLE=DIR; needs a network for pip, no torch)
	@$(PYTHON_BASE) -m converter.deploy --here $(DEPLOY)
