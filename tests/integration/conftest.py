import sys

import pytest
from hydra import compose, initialize_config_dir

from wmtp.cli import config_dir

# The main job in small: a few steps, a few problems, no MLflow.
SMALL = [
    "data.token_budget=512",
    "trainer.max_steps=4",
    "trainer.log_every_n_steps=1",
    "+trainer.enable_progress_bar=false",
    "eval.limit=4",
    "sampling.max_new_tokens=64",
    "logger=csv",
    "~callbacks.progress",
    # The tiny model writes list and word exercises; macOS has no isolation to run them in.
    f"sandbox.allow_unsafe={sys.platform != 'linux'}",
]


@pytest.fixture
def config(tmp_path):
    """Compose the small main job, its runs in a folder of the test."""

    def make(*overrides: str, root: str = "train"):
        small = [*SMALL, f"runs={tmp_path / 'runs'}"] if root == "train" else []
        if root == "train" and not {"data=mbpp", "data=codecontests", "data=apps", "data=taco", "data=jsonl"} & {
            *overrides
        }:
            small.append("data.train_size=200")
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            return compose(root, [*small, *overrides])

    return make
