"""A fine-tuned model: only its LoRA adapters are sampled, and only the tokens of answers count.

A small language model, pretrained on prose, learns by LoRA to say whether a word has the letter a. Tokens of questions have
the label -100: they are no targets, neither in training nor while sampling.
"""

import torch
from peft import LoraConfig, get_peft_model

import devinterp
from devinterp.tiny_model import tiny_model

WORD, NUM = 6, 512


def chats(tokenizer, num: int, seed: int) -> dict[str, torch.Tensor]:
    """Return questions with their answers, and labels that leave questions out."""
    words = torch.randint(ord("a"), ord("h"), (num, WORD), generator=torch.Generator().manual_seed(seed)).tolist()
    texts = ["".join(map(chr, word)) for word in words]
    ids = torch.tensor([tokenizer(f"{text}? {'yes' if 'a' in text else 'not'}.")["input_ids"] for text in texts])
    return {"input_ids": ids, "labels": torch.where(torch.arange(ids.shape[1]) < WORD + 2, -100, ids)}


torch.manual_seed(0)
model, tokenizer = tiny_model(length=64, num_steps=100)
model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"))
data = chats(tokenizer, NUM, seed=0)
optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=3e-3)
for _ in range(200):
    rows = torch.randint(NUM, (64,))
    optimizer.zero_grad()
    model(**{name: column[rows] for name, column in data.items()}).loss.backward()
    optimizer.step()
model.eval()
unseen = chats(tokenizer, 256, seed=1)
with torch.no_grad():
    answers = model(input_ids=unseen["input_ids"]).logits[:, WORD + 1].argmax(-1)
print(f"right on {(answers == unseen['input_ids'][:, WORD + 2]).float().mean():.0%} of unseen questions")

tree = devinterp.sample(
    model, data, weight_restrictions={"all": "lora", "attn": "lora - l* mlp", "mlp": "lora - l* attn"},
    sampling_method="baoab", lr=3e-4, n_beta=300.0, localization=30.0, batch_size=64, num_chains=2,
    num_burnin_steps=300, num_draws=300,
)
trainable = sum(each.numel() for each in model.parameters() if each.requires_grad)
counted = tree["trace/loss"].notnull().all(["restriction", "chain", "step", "batch"])
count = counted.position.values[counted].tolist()
print(f"{int(tree['num_moving'][0])} of {trainable} adapter weights sampled; tokens {count} count")
llc = tree.slt.llc()
for name, mean, error in zip(llc.restriction.values, llc.paired_llc_mean.values, llc.paired_llc_se.values, strict=True):
    print(f"{name:5}{mean:6.2f} ± {error:.2f}")
print(f"verdict on the run: {tree.slt.diagnose().attrs['verdict']}")
