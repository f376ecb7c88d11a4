"""A small language model that is trained on the spot, for ``devinterp quickstart --tiny``."""

from __future__ import annotations

from typing import Any

from devinterp import optional, sources


def tiny_model(
    *, length: int, num_steps: int = 200, seed: int = 0, texts: tuple[str, ...] = (sources.PROSE,)
) -> tuple[Any, Any]:
    """Return a small byte-level language model, trained for a few seconds, and its tokenizer.

    Parameters
    ----------
    length : int
        Tokens (bytes) of a training sequence.
    num_steps : int, default: 200
        Training steps.
    seed : int, default: 0
        Of the weights and the data order.
    texts : tuple of str, default: ("prose",)
        What to train on, each as `devinterp.sources.load_sequences` takes it; equally many sequences of each.
    """
    import torch

    transformers = optional.require("transformers")
    tokenizer = byte_tokenizer()
    config = transformers.GPTNeoXConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=max(256, length),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):  # models draw their first weights from the global generator
        torch.manual_seed(seed)
        model = transformers.GPTNeoXForCausalLM(config)
    parts = [sources.load_sequences(text, tokenizer, length=length, limit=2048) for text in texts]
    tokens = torch.cat([torch.as_tensor(part.with_format("torch")["input_ids"][:]) for part in parts])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(num_steps):
        batch = tokens[torch.randint(len(tokens), (32,), generator=generator)]
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval(), tokenizer


def byte_tokenizer() -> Any:
    """Return a tokenizer whose tokens are bytes; it needs no files."""
    transformers = optional.require("transformers")
    tokenizers = optional.require("tokenizers")
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: number for number, character in enumerate([*alphabet, "<|endoftext|>"])}
    inner = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<|endoftext|>", eos_token="<|endoftext|>"
    )
