"""A short campaign of mutated inputs; `campaign.py` runs longer ones."""

from fuzz.campaign import campaign


def test_what_others_wrote_is_taken_or_refused_by_name(tmp_path, digits):
    assert campaign(tmp_path, digits / "client.bundle", digits / "trial.toml", inputs=30_000, seed=1) >= 30_000
