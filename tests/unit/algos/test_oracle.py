"""Hold what the oracle drops, and that it says so where nothing is known to be bad."""

from types import SimpleNamespace

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from tests.tiny import tiny_model
from wmtp.algos.oracle import Oracle
from wmtp.cli import config_dir
from wmtp.data.module import MTPDataModule
from wmtp.data.prompts import Synthetic0Shot
from wmtp.data.synthetic import Synthetic
from wmtp.errors import ConfigError


def oracle():
    conf = config_dir() / "algo"
    merged = OmegaConf.merge(
        OmegaConf.load(conf / "weighting/hard.yaml"), OmegaConf.load(conf / "oracle.yaml").weighting
    )
    merged.seed = 42
    return Oracle(
        tiny_model(), weighting=instantiate(merged), optimizer=lambda model: torch.optim.SGD(model.parameters())
    )


def test_corrupted_tokens_weigh_nothing_and_the_clean_ones_share_what_is_left_alike():
    labels_BT = torch.tensor([[-100, 5, 6, 7, 8], [-100, -100, 5, 6, -100]])
    noise_BT = torch.tensor([[False, False, True, True, False], [True, False, False, False, True]])
    algo = oracle()
    score_BT = algo.token_scores({"labels_BT": labels_BT, "noise_BT": noise_BT}, None)
    weight_BT = algo.weighting(score_BT, labels_BT >= 0)
    # six target tokens, two of them corrupted: the other four weigh 6/4
    assert weight_BT.tolist() == [[0, 1.5, 0, 0, 1.5], [0, 0, 1.5, 1.5, 0]]
    assert algo.weighting(-torch.ones(1, 4), torch.ones(1, 4, dtype=torch.bool)).eq(1).all()  # all are corrupted


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_data_that_knows_no_corrupted_token_is_refused(tokenizer, noise):
    data = MTPDataModule(
        Synthetic(train_size=20, validation_size=4, test_size=0, noise=noise), Synthetic0Shot(), tokenizer
    )
    data.setup()
    if noise:
        oracle().check(SimpleNamespace(), data)
    else:
        with pytest.raises(
            ConfigError, match="algo=oracle drops the tokens known to be corrupted, and synthetic knows of"
        ):
            oracle().check(SimpleNamespace(), data)
