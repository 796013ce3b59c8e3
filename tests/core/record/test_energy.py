from typing import get_args

import msgspec
import pytest

from cutlayer_core.errors import ProvenanceError
from cutlayer_core.record.energy import Energy, Kind, Scope, column_of, total


def energy(energy_j=10.0, kind="measured", scope="dc_input", half=1.0):
    return Energy(energy_j=energy_j, low_j=energy_j - half, high_j=energy_j + half, kind=kind, scope=scope)


def test_like_energies_add_up_with_their_bounds():
    assert energy(10) + energy(5) == Energy(energy_j=15, low_j=13, high_j=17, kind="measured", scope="dc_input")
    assert energy(10) - energy(4) == Energy(energy_j=6, low_j=4, high_j=8, kind="measured", scope="dc_input")
    assert total([energy(1), energy(2), energy(3)]).energy_j == 6
    assert total([]) is None


@pytest.mark.parametrize("other", [energy(kind="estimated_prior"), energy(scope="wall_ac"), energy(kind="simulated")])
def test_unlike_energies_never_mix(other):
    for put_together in (lambda: energy() + other, lambda: other - energy(), lambda: total([energy(), other])):
        with pytest.raises(ProvenanceError, match="are no sum: report them side by side"):
            put_together()


def test_a_number_is_no_energy():
    with pytest.raises(TypeError):
        sum([energy()])
    with pytest.raises(AttributeError):
        energy() + 5.0


def test_every_text_and_every_column_says_kind_and_scope():
    assert str(energy(38.62, "estimated_prior")) == "≈ 38.6 J (37.6 to 39.6; estimated_prior, dc_input)"
    assert str(energy(38.62)) == "38.6 J (37.6 to 39.6; measured, dc_input)"
    kinds, scopes = get_args(Kind), get_args(Scope)
    columns = {column_of(kind, scope) for kind in kinds for scope in scopes}
    assert len(columns) == len(kinds) * len(scopes) == 32
    assert energy(scope="wall_ac").column == "energy_measured_wall_ac_j"
    assert not any(name in ("energy_j", "energy") for name in columns)


def test_it_goes_through_json_and_nothing_else_does():
    assert msgspec.json.decode(msgspec.json.encode(energy()), type=Energy) == energy()
    for bad in ('"guessed"', "null"):
        text = msgspec.json.encode(energy()).decode().replace('"measured"', bad)
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(text, type=Energy)
