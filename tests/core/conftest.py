import pytest

from cutlayer.codecs import Codecs
from cutlayer.messages import Assignment, Augmentation


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
