"""Hold the algorithms: one LightningModule a file, all sharing the weighted MTP step."""
