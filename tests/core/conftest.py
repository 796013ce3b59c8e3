import pytest

from cutlayer.codecs import Raw
from cutlayer.messages import Assignment, Augmentation


@pytest.fixture
def assignment():
    return Assignment(
        client=0,
        seed=1,
        batch_size=4,
        learning_rate=0.1,
        up=Raw(),
        down=Raw(),
        augmentation=Augmentation(),
        patience_s=1.0,
    )
