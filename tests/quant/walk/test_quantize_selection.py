"""Which layers of any module are replaced, which stay in float and why, and what happens to weights that layers share."""

import copy
import weakref

import pytest
import torch
from torch import Tensor, nn

from helpers.any_module import ALL, CONVS, Net
from vggtq import Layers, Mixed, Scheme, Weights, quantize_
from vggtq.errors import QuantizationError
from vggtq.quant.walk.select import select_layers


def test_first_and_last_layers_are_kept_unless_asked(net: Net) -> None:
    kept = {k.name: k.reason for k in quantize_(copy.deepcopy(net), Scheme()).kept}
    assert kept["one_row"] == "first or last layer"
    scheme = Scheme(layers=ALL)
    assert "one_row" in [layer.name for layer in quantize_(net, scheme).layers]


def test_a_model_without_declared_ends_is_told(caplog: pytest.LogCaptureFixture) -> None:
    result = quantize_(nn.Sequential(nn.Linear(4, 4)), Scheme())
    assert "does not declare" in result.notes[0]
    assert "does not declare" in caplog.text


def test_given_ends_win_and_must_exist(net: Net) -> None:
    assert "one_row" in [
        layer.name for layer in quantize_(copy.deepcopy(net), Scheme(), first_last=[]).layers
    ]
    with pytest.raises(QuantizationError, match="does not have: nowhere"):
        quantize_(net, Scheme(), first_last=["nowhere"])


def test_patterns_match_whole_dotted_names(net: Net) -> None:
    layers = Layers(include=["mlp.*"], exclude=["*.2"], skip_first_last=False)
    result = quantize_(net, Scheme(layers=layers))
    assert [layer.name for layer in result.layers] == ["mlp.0"]
    assert {k.name: k.reason for k in result.kept}["mlp.2"] == "in scheme.layers.exclude"


@pytest.mark.parametrize(
    "scheme",
    [
        Scheme(layers=Layers(include=["mpl.*"])),
        Scheme(layers=Layers(exclude=["nothing"])),
        Scheme(mixed=Mixed(sensitive=["*attn*"])),
    ],
    ids=["include", "exclude", "sensitive"],
)
def test_a_pattern_that_matches_nothing_is_an_error(scheme: Scheme) -> None:
    with torch.device("meta"):  # no weights are needed to find out
        model = Net()
    with pytest.raises(QuantizationError, match="matches none of the 7 layers"):
        select_layers(model, scheme)


def test_a_scheme_that_selects_nothing_is_an_error(net: Net) -> None:
    with pytest.raises(QuantizationError, match="selects none"):
        quantize_(net, Scheme(layers=Layers(include=["conv"])))


def test_mixed_precision_gives_each_layer_its_bits(net: Net) -> None:
    scheme = Scheme("m", Weights(bits=4), layers=ALL, mixed=Mixed(["*attention*"], 8, 3))
    bits = {layer.name: layer.weights.bits for layer in quantize_(net, scheme).layers}
    assert bits == {"attention.in_proj": 8, "attention.out_proj": 8, "mlp.0": 3, "mlp.2": 3, "one_row": 3}


def test_the_layer_of_a_bad_weight_is_named(net: Net) -> None:
    net.mlp[2].weight[0, 0] = torch.nan
    with pytest.raises(QuantizationError, match=r"^mlp\.2: 1 of 150 weights are NaN"):
        quantize_(net, Scheme())


def test_a_weight_that_an_embedding_shares_stays_in_float() -> None:
    model = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 10, bias=False), nn.Linear(10, 4))
    model[1].weight = model[0].weight
    result = quantize_(model, Scheme(layers=ALL))
    assert [layer.name for layer in result.layers] == ["2"]
    assert result.kept[0].reason == "shares its weight with 0.weight, which stays in float"


def test_a_module_in_two_places_is_replaced_in_both() -> None:
    linear = nn.Linear(4, 4)
    model = nn.ModuleDict({"a": nn.Sequential(linear), "b": nn.Sequential(linear)})
    assert len(quantize_(model, Scheme(layers=ALL)).layers) == 1
    assert model["a"][0] is model["b"][0]
    assert not isinstance(model["b"][0], nn.Linear)


def test_what_cannot_be_replaced_is_kept_and_says_why() -> None:
    class Scaled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    hooked = nn.Linear(4, 4)
    hooked.register_forward_hook(lambda *_: None)
    model = nn.ModuleDict(
        {
            "plain": nn.Linear(4, 4),
            "subclass": Scaled(4, 4),
            "hooked": hooked,
            "normed": nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)),
            "kv": nn.MultiheadAttention(4, 2, add_bias_kv=True),
            "wide": nn.MultiheadAttention(4, 2, kdim=6, vdim=6),
        }
    )
    result = quantize_(model, Scheme(layers=ALL))
    assert [layer.name for layer in result.layers] == ["plain"]
    assert {k.name: k.reason for k in result.kept} == {
        "subclass": "Scaled may do more than Linear",
        "hooked": "has forward hooks",
        "normed": "ParametrizedLinear may do more than Linear",
        "kv.in_proj": "add_bias_kv and add_zero_attn are not supported",
        "kv.out_proj": "add_bias_kv and add_zero_attn are not supported",
        "wide.in_proj": "key and value have widths of their own",
        "wide.out_proj": "key and value have widths of their own",
    }


def test_torch_s_own_encoder_goes_on_working() -> None:
    torch.manual_seed(0)
    encoder = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2, enable_nested_tensor=False
    )
    model = nn.Sequential(encoder, nn.Linear(16, 4)).eval().requires_grad_(False)
    x = torch.randn(2, 5, 16)
    expected = encoder(x)
    result = quantize_(model, Scheme(layers=ALL))
    assert torch.equal(encoder(x), expected)
    assert [layer.name for layer in result.layers] == ["1"]
    assert any("reads its weights itself" in kept.reason for kept in result.kept)


def test_convolutions_that_share_a_weight_have_rows_of_their_own() -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"down": nn.Conv2d(8, 8, 3), "up": nn.ConvTranspose2d(8, 8, 3)}).requires_grad_(
        False
    )
    model["up"].weight = model["down"].weight
    x = torch.randn(1, 8, 6, 6)
    expected = model["down"](x), model["up"](x)
    quantize_(model, Scheme(layers=CONVS))
    for out, exact in zip((model["down"](x), model["up"](x)), expected, strict=True):
        assert (out - exact).norm() / exact.norm() < 0.01


def test_float_weights_are_released_as_their_replacements_arrive() -> None:
    model = nn.Sequential(*[nn.Linear(8, 8) for _ in range(3)])
    references = [weakref.ref(layer) for layer in model]
    alive = []
    quantize_(
        model, Scheme(layers=ALL), on_layer=lambda *_: alive.append(sum(r() is not None for r in references))
    )
    assert alive[-1] <= 1
    assert alive == sorted(alive, reverse=True)


def test_a_sensitive_pattern_that_only_matches_kept_layers_is_an_error(net: Net) -> None:
    with pytest.raises(QuantizationError, match="'conv' matches only layers that stay in float"):
        quantize_(net, Scheme(mixed=Mixed(sensitive=["conv"])))


def test_a_bare_layer_cannot_be_replaced() -> None:
    with pytest.raises(QuantizationError, match=r"nn\.Sequential"):
        quantize_(nn.Linear(4, 4), Scheme(layers=ALL))


def test_padding_that_is_not_zeros_keeps_a_convolution_in_float() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), nn.Conv2d(4, 4, 3))
    result = quantize_(model, Scheme(layers=CONVS))
    assert [(k.name, k.reason) for k in result.kept] == [("0", "padding_mode=reflect is not supported")]
