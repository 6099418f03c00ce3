.DEFAULT_GOAL := help
.PHONY: help run new-site new-agent add-person migration seal test check bench demo rehearse reset manifest bundle deploy

PORT ?= 54321
STATE ?= .state
AGENT ?= lead-qualifier
SINCE ?= 7d
VENV := .venv
PYTHON := $(VENV)/bin/python
TESTS :=
export PYTHONPATH := supabase:.

help: ## This list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

run: $(VENV)/.requirements.lock ## Run the hub on PORT (54321) with its data in STATE (.state); Ctrl-C stops it
	@exec $(PYTHON) -m emulator --port "$(PORT)" --state "$(STATE)" --parent $$PPID

new-site: $(VENV)/.requirements.lock ## Connect a site to the running hub: NAME="Bob's Plumbing" URL=https://bobs.example
	@$(PYTHON) -m operate.new_site --state "$(STATE)"

new-agent: $(VENV)/.requirements.lock ## Make an agent on the running hub: NAME="Quote Chaser" EVENTS=form.submitted
	@$(PYTHON) -m operate.new_agent --state "$(STATE)"

add-person: $(VENV)/.requirements.lock ## Let a person sign in, in a role of ORG: EMAIL=jo@bobs.example ROLE=operator
	@$(PYTHON) -m operate.add_person --state "$(STATE)"

migration: $(VENV)/.requirements.lock ## Write the next migration from what supabase/schemas says: NAME=add_channels
	@$(PYTHON) -m operate.make_migration "$(NAME)"

seal: $(VENV)/.requirements.lock ## Write down the hashes of new migrations; from then on they stay as they are
	@$(PYTHON) -m operate.make_migration --seal

test: $(VENV)/.requirements-test.lock ## Run all tests, each on hubs of its own, or TESTS="tests/watch"
	@$(PYTHON) -m pytest -rs $(TESTS)

check: $(VENV)/.requirements-test.lock ## Lint, format, types, manifest, migrations
	@$(PYTHON) -m ruff check --quiet
	@$(PYTHON) -m ruff format --check --quiet
	@$(PYTHON) -m mypy
	@$(PYTHON) -m deploy.manifest --check
	@$(VENV)/bin/squawk --pg-version 17.0 --assume-in-transaction migrations/*.sql

bench: $(VENV)/.requirements-test.lock ## Measure: forms against the same SQL under pgbench, replay, the monitor, a million contacts
	@for bench in bench replay monitor contacts; do PYTHONPATH=$(PYTHONPATH):tests $(PYTHON) -m load.$$bench || exit 1; done

demo: $(VENV)/.requirements.lock ## Play a busy day against the running hub in STATE, and check that nothing is lost or doubled
	@$(PYTHON) -m operate.demo --state "$(STATE)"

rehearse: $(VENV)/.requirements.lock ## Let VERSION of AGENT (lead-qualifier) decide about the past (SINCE=7d), without effects
	@$(if $(VERSION),,$(error Say which version: make rehearse VERSION=1))
	@$(PYTHON) -m operate.rehearse --agent "$(AGENT)" --version "$(VERSION)" --since "$(SINCE)" --state "$(STATE)"

manifest: $(VENV)/.requirements.lock ## Write functions/manifest.toml and each requirements.txt, of what functions declare and import
	@$(PYTHON) -m deploy.manifest

bundle: $(VENV)/.requirements.lock ## Put what each function needs into dist/<function>
	@$(PYTHON) -m deploy.bundle

deploy: bundle ## Migrate the project's database and deploy every function; DRY_RUN=1 prints the commands
	@$(PYTHON) -m deploy.plan $(if $(DRY_RUN),--dry-run)

reset: $(VENV)/.requirements.lock ## Remove the hub in STATE: its data, keys and logs
	@$(PYTHON) -m emulator --state "$(STATE)" --reset

$(VENV)/%: %
	@for python in python3.12 python3.13 python3.14 python3 python /usr/local/bin/python3 /usr/bin/python3 \
	  "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/3.*/bin/python3; do \
	  if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null; then \
	    exec "$$python" -P supabase/emulator/environment.py $< $(VENV); \
	  fi; \
	done; \
	echo "Mission Control needs Python 3.12 or newer; here there is $$(python3 --version 2>/dev/null || echo none)." >&2; \
	exit 1
