import pytest

from cutlayer_core.errors import UserError
from cutlayer_core.wire import topics


def test_topics_follow_the_scheme_and_can_be_read_back():
    assert topics.up("t", "d") == "cutlayer/1/t/d/up"
    assert topics.control("t") == "cutlayer/1/t/all/control"
    assert topics.parse(topics.down("t", "d")) == ("d", "down")
    assert topics.parse(topics.state("t", "d")) == ("d", "state")


@pytest.mark.parametrize("name", ["", "all", "a/b", "+", "#", "-x", "ä", "x" * 65, "a b", "..", "../x"])
def test_a_name_that_cannot_stand_in_a_topic_is_refused(name):
    with pytest.raises(UserError, match="letters, digits"):
        topics.check_name(name, "the device name")


@pytest.mark.parametrize("name", ["board-1", "pi4.local", "X", "a_b"])
def test_usual_names_pass(name):
    assert topics.check_name(name, "the device name") == name
