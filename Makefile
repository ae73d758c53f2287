# Commands for people; everything longer than a line is Python (`python -m sightglass --help`).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := $(BIN)/python -m sightglass
LOCK = $(BIN)/uv pip compile pyproject.toml --generate-hashes --no-emit-index-url --universal --python-version 3.11 \
	--quiet --custom-compile-command "make lock"

.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help up down clean status env logs verify alerts deploy undeploy connect load bench cost latency links drill generate test unit integration cluster servers check format lock

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

load: $(VENV)/ready ## real posts against the service: make load ARGS="--shape burst --duration 60"
	@$(BIN)/python -m load_testing $(ARGS)

bench: $(VENV)/ready ## throughput and p99 with telemetry, without, and against stock BentoML
	@$(BIN)/python -m load_testing.overhead $(ARGS)

cost: $(VENV)/ready ## bytes, series and processor time of a thousand predictions on the running stack
	@$(BIN)/python -m load_testing.cost $(ARGS)

latency: $(VENV)/ready ## seconds from emission to found over 100 requests on the running stack
	@$(BIN)/python -m load_testing.latency $(ARGS)

links: $(VENV)/ready ## every link of 100 requests on the running stack, each to the same request, in seconds
	@$(BIN)/python -m load_testing.links $(ARGS)

drill: $(VENV)/ready ## 10 quiet minutes of load, the dashboards' queries after it, then a server that dies
	@$(BIN)/python -m load_testing.drill $(ARGS)

deploy: $(VENV)/ready ## build the image, install everything in a Kubernetes cluster, then prove it
	@$(RUN) deploy $(ARGS)

undeploy: $(VENV)/ready ## take back what deploy made, data and all
	@$(RUN) undeploy

connect: $(VENV)/ready ## open the cluster's ports on this machine until Ctrl-C
	@$(RUN) connect

generate: $(VENV)/ready ## write dashboards, alert rules and kustomize's inputs anew from their Python sources
	@$(BIN)/python -m dashboards
	@$(BIN)/python -m sightglass.alerting
	@$(BIN)/python -m sightglass.kubernetes.generated

test: check servers integration ## everything: static checks, unit tests, tests on a stack and on a cluster of their own
	@$(NODE_START)
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=line unit cluster

servers: $(VENV)/ready ## build the servers that are missing, once per machine
	@$(BIN)/python -m sightglass.build > /dev/null

check: $(VENV)/ready ## ruff and mypy
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .
	@$(BIN)/mypy

unit: servers ## tests that need no stack
	@$(BIN)/pytest tests/unit $(ARGS)

integration: servers ## tests that start a stack of their own, beside a running one
	@$(BIN)/pytest tests/integration $(ARGS)

cluster: servers ## tests that need a cluster (KUBE_CONTEXT), charts (CHARTS_DIR) or a container engine; others skip
	@$(BIN)/pytest tests/kubernetes $(ARGS)

format: $(VENV)/ready ## rewrite the code as ruff wants it
	@$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format --quiet .

lock: $(VENV)/ready ## resolve the Python dependencies anew
	@$(LOCK) --all-extras -o requirements.txt
	@$(LOCK) --constraints requirements.txt -o example-service/requirements.txt

$(VENV)/ready: requirements.txt pyproject.toml bootstrap.py
	@$(PYTHON) bootstrap.py $(VENV)
