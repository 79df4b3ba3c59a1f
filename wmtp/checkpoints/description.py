"""Put into every checkpoint what its model is, so that `saved_model.py` can build it again from nothing else."""

from dataclasses import asdict
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer


class Description(Callback):
    """Describe the model and the run in plain values, never objects."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Write it in."""
        model = pl_module.model
        adapter = model.adapter and asdict(model.adapter)
        checkpoint["wmtp"] = {"config": self.config, "model": model.config.to_dict(), "adapter": adapter}
