import pytest

from cutlayer_core.codecs import Codecs
from cutlayer_core.wire.messages import Assignment, Augmentation


@pytest.fixture
def assignment():
    return Assignment(
        client=0,
        seed=1,
        batch_size=4,
        learning_rate=0.1,
        codecs=Codecs(),
        augmentation=Augmentation(),
        patience_s=1.0,
    )
