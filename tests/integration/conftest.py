"""What all folders share; each has a stack of its own (:func:`tests.integration.running.stack`)."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.receiver import Receiver
from tests.integration.running import Running


@pytest.fixture(scope="session")
def receiver() -> Iterator[Receiver]:
    """Whom the stacks notify."""
    with Receiver() as made:
        yield made


@pytest.fixture(scope="module")
def logs(stack: Running) -> Path:
    """The folder whose files Promtail tails."""
    return stack.settings.service_logs_dir
