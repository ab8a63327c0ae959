"""What the report says of what was brought from elsewhere."""

from __future__ import annotations

import yaml

from trend_dagster.delivery.report import _features_from, _used_settings
from trend_dagster.project.settings import load_settings


def test_settings_that_decided_nothing_are_not_listed(tmp_path):
    tutorial, default = load_settings(tmp_path, "tutorial"), load_settings(tmp_path, "default")

    def left_out(settings, imported):
        return settings.model_dump().keys() - yaml.safe_load(_used_settings(settings, imported))

    assert left_out(tutorial, {}) == set()
    assert left_out(default, {}) == {"autoencoder", "training"}
    assert left_out(tutorial, {"trained_model": "a.pth"}) == {"training"}
    emb = {"embeddings": "a.npy"}
    assert left_out(tutorial, emb) == {"training"}
    assert left_out(tutorial, {"average_correlation": "a.npy"}) == {"training"}
    assert _features_from(tutorial, {}) == "trained model"
    assert _features_from(tutorial, emb) == "what was imported"
