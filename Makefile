# For a machine without ROS: everything runs in .venv, which the first target that needs it sets up.
# Beside a ROS distribution, build the package with colcon instead.

VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/pytest -n 2

# Cron jobs and `env -i` have neither; rclpy's logging wants a home directory, compilers want a path.
ifeq ($(HOME),)
export HOME := $(shell getent passwd "$$(id -u)" | cut -d: -f6)
endif
ifeq ($(PATH),)
export PATH := /usr/local/bin:/usr/bin:/bin
endif

# What a sourced ROS distribution sets would mix its libraries with the environment's.
unexport PYTHONPATH PYTHONHOME LD_LIBRARY_PATH AMENT_PREFIX_PATH CMAKE_PREFIX_PATH
unexport _ROS_WHEELS_BOOTSTRAP_COMPLETE

.DEFAULT_GOAL := help
.PHONY: help env env-train env-dev demo lint test test-all format clean clean-all

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "Variables: PYTHON=/path/to/python3.11 (the interpreter that .venv is made with)"

env: ## set up .venv for the node and the demo
	@PYTHON="$(PYTHON)" pip_ros/install.sh $(VENV)

env-train: ## set up .venv for training as well
	@PYTHON="$(PYTHON)" pip_ros/install.sh $(VENV) train

env-dev: ## set up .venv for training and the tests as well
	@PYTHON="$(PYTHON)" pip_ros/install.sh $(VENV) dev

demo: env ## a synthetic drive through the node, with pictures of what comes out
	@$(BIN)/bev demo

lint: env-dev ## formatting, lint rules and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint ## lint and all tests but the slow ones
	$(PYTEST) -m "not slow"

test-all: lint ## lint and all tests
	$(PYTEST)

format: env-dev ## rewrite the Python files in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove build results and caches
	rm -rf build install log dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

clean-all: clean ## remove .venv as well
	rm -rf $(VENV)
