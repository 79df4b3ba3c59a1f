"""Hold that heads which were trained and saved are loaded again, and that what happens to them is said."""

import pytest
import torch
from hydra import compose, initialize_config_dir

from tests.tiny import tiny_model
from wmtp.cli import build, config_dir
from wmtp.models.loading import load_model


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A model with three heads that no two layers share, and its folder."""
    torch.manual_seed(42)
    model, folder = tiny_model(heads=3), tmp_path_factory.mktemp("runs") / "model"
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    model.save_pretrained(folder)
    return model, folder


def heads_of(model) -> list[torch.Tensor]:
    return [model.decoder_layers[-1].mlp.down_proj.weight, *(head.mlp.down_proj.weight for head in model.extra_heads)]


def load(folder, *overrides: str):
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        cfg = compose("train", ["model=hf", f"model.path={folder}", *overrides])
    return build(cfg.model).load()


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (3, "its 3 saved heads are used (model.heads_init=copy starts them anew)."),
        (2, "2 of its 3 saved heads are used (model.heads_init=copy starts them anew)."),
        (5, "its 3 saved heads are used; the other 2 start as copies of the last layer (model.heads_init=copy"),
    ],
)
def test_model_hf_loads_the_heads_of_an_export_and_says_so_in_one_line(exported, capsys, wanted, said):
    trained, folder = exported
    ours, theirs = heads_of(load(folder, f"model.heads={wanted}")), heads_of(trained)
    assert len(ours) == wanted
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=False))
    assert all(torch.equal(new, theirs[0]) for new in ours[3:])
    lines = [line for line in capsys.readouterr().out.splitlines() if "saved heads" in line]
    assert len(lines) == 1 and lines[0].startswith(f"model.path = {folder}: {said}")


def test_heads_that_are_started_anew_on_request_are_said_to_be_left_out(exported, capsys):
    trained, folder = exported
    copies = heads_of(load(folder, "model.heads=3", "model.heads_init=copy"))
    assert all(torch.equal(copy, heads_of(trained)[0]) for copy in copies)
    assert "its 3 saved heads are left out, as model.heads_init=copy says." in capsys.readouterr().out


def test_a_model_without_heads_starts_them_as_copies_and_says_nothing(tmp_path, capsys):
    tiny_model(heads=1).save_pretrained(tmp_path)
    first, *others = heads_of(load(tmp_path, "model.heads=3"))
    assert len(others) == 2 and all(torch.equal(first, other) for other in others)
    assert "heads" not in capsys.readouterr().out


def test_a_head_that_the_folder_promises_and_lacks_is_no_new_head(exported, tmp_path):
    from safetensors.torch import load_file, save_file

    from wmtp.errors import CheckpointError

    _, folder = exported
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    weights = load_file(folder / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if not name.startswith("extra_heads.1.")}
    save_file(kept, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lacks extra_heads\.1\."):
        load_model(tmp_path, heads=3, heads_init="auto")
