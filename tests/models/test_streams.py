"""Models whose tokens come in several streams, and position tables that run over buckets and heads at once."""

from __future__ import annotations

import pytest
import torch

from devinterp import sample
from devinterp.errors import InvalidInputError
from devinterp.models.restrictions import create_param_masks, restrictions

transformers = pytest.importorskip("transformers")


def test_heads_of_musicgen_and_its_tokens():
    config = transformers.MusicgenDecoderConfig(
        vocab_size=23, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, ffn_dim=24, num_codebooks=4,
        max_position_embeddings=32, pad_token_id=0, bos_token_id=1,
    )  # fmt: skip
    model = transformers.MusicgenForCausalLM(config).eval()
    assert restrictions(model, "head") == tuple(f"l{layer}h{head}" for layer in range(2) for head in range(4))
    with pytest.raises(InvalidInputError, match="reads and predicts 4 codebooks at once.*pass `loss_fn=`"):
        sample(model, torch.randint(23, (8, 9)), lr=1e-4, n_beta=1.0, batch_size=4, num_draws=1, progress=False)
    codes = {"codes": torch.randint(23, (8, 4, 9))}

    def loss(model, batch):
        ids = batch["codes"]
        logits = model(input_ids=ids.flatten(0, 1)).logits
        losses = torch.nn.functional.cross_entropy(
            logits[:, :-1].transpose(1, 2), ids.flatten(0, 1)[:, 1:], reduction="none"
        )
        return losses.view(len(ids), -1).mean(1)

    masks = create_param_masks(model, "l0h1")
    tree = sample(
        model, codes, loss_fn=loss, param_masks=masks, lr=1e-4, n_beta=1.0, batch_size=4, num_draws=1, progress=False
    )
    assert int(tree["num_moving"][0]) == masks.num_elements


def test_relative_positions_of_prophetnet_belong_to_their_heads():
    config = transformers.ProphetNetConfig(
        vocab_size=23, hidden_size=16, num_encoder_layers=1, num_decoder_layers=1, num_encoder_attention_heads=4,
        num_decoder_attention_heads=4, encoder_ffn_dim=24, decoder_ffn_dim=24, ngram=2, max_position_embeddings=32,
        num_buckets=8, relative_max_distance=16, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = transformers.ProphetNetForCausalLM(config).eval()
    taken = torch.zeros(32, dtype=torch.long)
    for head in range(4):
        masks = create_param_masks(model, f"l0h{head}")
        (name,) = [name for name in masks if name.endswith("relative_pos_embeddings.weight")]
        assert masks[name].index[0].tolist() == list(range(head, 32, 4))
        taken += masks[name].to_bool().all(1)
    assert taken.tolist() == [1] * 32


def test_heads_of_windows():
    """Where an image is cut into windows, each is a row of the attention's batch; heads are those of one window."""
    config = transformers.SwinConfig(
        image_size=32, patch_size=4, embed_dim=8, depths=[2, 1], num_heads=[2, 4], window_size=4
    )
    model = transformers.SwinForImageClassification(config).eval()
    heads = restrictions(model, "head", example_inputs=torch.randn(2, 3, 32, 32))
    assert len([head for head in heads if head.startswith("l1h")]) == 4
    masks = create_param_masks(model, "l1h2", example_inputs=torch.randn(2, 3, 32, 32))
    rows = {
        tuple(mask.index[0].tolist())
        for name, mask in masks.items()
        if name.endswith(("query.weight", "q_proj.weight"))
    }
    assert rows == {(8, 9, 10, 11)}
