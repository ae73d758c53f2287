# Commands for people; everything longer than a line is Python (`.venv/bin/sightglass --help`).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := $(BIN)/sightglass
LOCK = $(BIN)/uv pip compile pyproject.toml --generate-hashes --no-emit-index-url --universal --python-version 3.11 \
	--no-emit-package ml-telemetry --quiet --custom-compile-command "make lock"
PROJECTS := pyproject.toml ml-telemetry/pyproject.toml
# What takes the time of a part, where one is wanted: .ci/run sets it.
PART = $(if $(TIMER),$(TIMER) $@)
PYTEST = $(BIN)/pytest -m "not long"
# Takes only the processor time that nobody wants. The programs of a stack have sessions of their own, so nice is not enough.
LOW = setsid --wait nice -n 19 sh -c '{ echo 19 > /proc/self/autogroup; } 2> /dev/null; exec "$$@"' sh
# Much to compute, and no clock that it could miss: these run beside the integration tests, which mostly wait.
PATIENT := tests/unit/test_alert_rules.py

# What is set for other Python programs would be imported by ours. Names of files are UTF-8, whatever the locale says.
unexport PYTHONPATH PYTHONHOME PYTHONSTARTUP BENTOML_CONFIG BENTOML_CONFIG_OPTIONS
export PYTHONUTF8 := 1
# A copied or moved checkout makes its environment anew: the one that came along would run the original's code.
$(shell [ "$$(cat $(VENV)/ready 2> /dev/null)" = "$$(pwd -P)" ] || rm -f $(VENV)/ready $(VENV)/ready-load $(VENV)/ready-dev)

.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help up down clean status env logs verify alerts deploy undeploy connect load bench cost latency links proof drill generate test test-long fuzz unit integration patient cluster servers check format lock

help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

up: $(VENV)/ready ## build, train and start everything, then prove that every signal arrives
	@$(RUN) up $(ARGS)

down: $(VENV)/ready ## stop everything, keep the data
	@$(RUN) down

clean: $(VENV)/ready ## stop everything and forget data, secrets and models
	@$(RUN) clean

status: $(VENV)/ready ## state, memory, version and address of every component
	@$(RUN) status $(ARGS)

env: $(VENV)/ready ## addresses and the read-only S3 user as KEY=VALUE lines
	@$(RUN) env

logs: $(VENV)/ready ## the end of a component's log: make logs NAME=loki
	@$(RUN) logs $(NAME) $(ARGS)

verify: $(VENV)/ready ## make predictions and find every signal of them where it belongs
	@$(RUN) verify $(ARGS)

alerts: $(VENV)/ready ## what is firing and pending, and why
	@$(RUN) alerts $(ARGS)

load: $(VENV)/ready-load ## real posts against the service: make load ARGS="--shape burst --duration 60"
	@$(RUN) load $(ARGS)

bench: $(VENV)/ready ## throughput and p99 with telemetry, without, and against stock BentoML
	@$(RUN) bench $(ARGS)

cost: $(VENV)/ready-load ## bytes, series and processor time of a thousand predictions on the running stack
	@$(RUN) cost $(ARGS)

latency: $(VENV)/ready ## seconds from emission to found over 100 requests on the running stack
	@$(RUN) latency $(ARGS)

links: $(VENV)/ready ## every link of 100 requests on the running stack, each to the same request, in seconds
	@$(RUN) links $(ARGS)

proof: $(VENV)/ready-load ## make verify beside others' traffic: 20 runs each at 0, 15, 100 requests/s and full load
	@$(RUN) proof $(ARGS)

neighbours: $(VENV)/ready ## one bad item among good ones, every kind of it, on the running stack: who is hurt
	@$(RUN) neighbours $(ARGS)

drill: $(VENV)/ready-dev ## 10 quiet minutes of load, the dashboards' queries after it, then a server that dies
	@$(RUN) drill $(ARGS)

fuzz: $(VENV)/ready-dev ## 100,000 hostile requests and 10,000 hostile records against the running stack, and what they cost others
	@$(BIN)/python -m tests.fuzz $(ARGS)

deploy: $(VENV)/ready ## build the image, install everything in a Kubernetes cluster, then prove it
	@$(RUN) deploy $(ARGS)

undeploy: $(VENV)/ready ## take back what deploy made, data and all
	@$(RUN) undeploy

connect: $(VENV)/ready ## open the cluster's ports on this machine until Ctrl-C
	@$(RUN) connect

generate: $(VENV)/ready-dev ## write dashboards, alert rules, kustomize's inputs, versions, settings and the API's description anew
	@$(BIN)/python -m sightglass.facts.versions
	@$(BIN)/python -m dashboards
	@$(BIN)/python -m sightglass.alerting
	@$(BIN)/python -m sightglass.facts.masking
	@$(BIN)/python -m sightglass.kubernetes.generated
	@$(BIN)/python -m sightglass.cli.settings_page
	@$(BIN)/python -m text_classifier.openapi

test: check servers ## what CI runs: static checks, unit tests, tests on a stack and on a cluster of their own
	@$(MAKE) --no-print-directory --jobs=2 integration patient
	@$(NODE_START)
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=line unit cluster ARGS="$(ARGS) $(PATIENT:%=--ignore=%)"

test-long: $(VENV)/ready-dev servers ## the rest, hours of it: every test that is marked as long and every bench, with their tables
	@$(BIN)/pytest -m long -rP $(ARGS)
	@$(RUN) bench

servers: $(VENV)/ready ## fetch or build the servers that are missing, once per machine; ARGS=--from=build or --from=release
	@$(PART) $(RUN) servers $(if $(filter servers,$(MAKECMDGOALS)),$(ARGS)) > /dev/null

check: $(VENV)/ready-dev ## ruff, mypy, and whether imports are declared and go one way
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/deptry . && $(BIN)/deptry ml-telemetry/src --config ml-telemetry/pyproject.toml
	@$(PART) $(BIN)/mypy

unit: $(VENV)/ready-dev ## tests that need no stack; those of a server's own checker skip where it is not built yet
	@$(PART) $(PYTEST) tests/unit ml-telemetry/tests $(ARGS)

patient: $(VENV)/ready-dev servers
	@$(PART) $(LOW) $(PYTEST) $(PATIENT) > $(VENV)/patient.log 2>&1 || { cat $(VENV)/patient.log; exit 1; }
	@tail -n 1 $(VENV)/patient.log

integration: $(VENV)/ready-dev servers ## tests that start a stack of their own, beside a running one
	@$(PART) $(PYTEST) tests/integration $(ARGS)

cluster: $(VENV)/ready-dev servers ## tests that need a cluster (KUBE_CONTEXT), charts (CHARTS_DIR) or a container engine; others skip
	@$(PART) $(PYTEST) tests/kubernetes $(ARGS)

format: $(VENV)/ready-dev ## rewrite the code as ruff wants it
	@$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format --quiet .

lock: $(VENV)/ready ## resolve the Python dependencies anew
	@$(LOCK) --all-extras -o requirements.txt
	@$(LOCK) --constraints requirements.txt --extra tool -o requirements-run.txt
	@$(LOCK) --constraints requirements.txt --extra tool --extra load -o requirements-load.txt
	@$(LOCK) --constraints requirements.txt -o example-service/requirements.txt

# Each has what its commands need and no more: a first `make up` waits for nothing that only the tests use.
$(VENV)/ready: requirements-run.txt $(PROJECTS) bootstrap.py
	@$(PYTHON) bootstrap.py $(VENV) run

$(VENV)/ready-load: requirements-load.txt $(PROJECTS) bootstrap.py
	@$(PYTHON) bootstrap.py $(VENV) load

$(VENV)/ready-dev: requirements.txt $(PROJECTS) bootstrap.py
	@$(PYTHON) bootstrap.py $(VENV) dev
