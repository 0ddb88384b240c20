import multiprocessing

import pytest
import torch
from hypothesis import HealthCheck, settings

# No timed assertions: the machine that runs the tests may be busy.
settings.register_profile("rmtnet", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("rmtnet")
# Processes that tests kill are forks of one that has imported what takes long.
multiprocessing.get_context("forkserver").set_forkserver_preload(["rmtnet.record", "rmtnet.layers"])


@pytest.fixture(autouse=True, scope="session")
def one_torch_thread():
    """Small sums are quicker so, and their order does not depend on the machine."""
    torch.set_num_threads(1)
