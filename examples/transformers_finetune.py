"""Prune a language model to 80% sparsity, then restore its quality with `transformers.Trainer`.

The dense model is the teacher: the sparse model learns to give the same embeddings, on words that
are not in the test. Training updates only the live connections.
"""

import sys

import torch
from minilm import agreement, embed, load_model, other_words, pool, tokenizer
from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

import sparsewright as sparse
from sparsewright.integrations.transformers import SparsityCallback


class Distillation(Trainer):
    """Train on the squared distance to the teacher's embeddings, which are the labels."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Return the loss of one batch."""
        labels = inputs.pop("labels")
        output = model(**inputs)
        embeddings = pool(output.last_hidden_state, inputs["attention_mask"])
        loss = (embeddings - labels).square().sum(1).mean()
        return (loss, output) if return_outputs else loss


def make_trainer(folder, steps=20, save_steps=20, batch_size=64):
    """Build a trainer for a student that its callback prunes immediately."""
    words, student = other_words(), load_model()
    words = [words[i] for i in torch.randperm(len(words), generator=torch.Generator())]
    words = words[: steps * batch_size]
    rows = [tokenizer(word) for word in words]
    for row, label in zip(rows, embed(student, words), strict=True):
        row["labels"] = label.tolist()
    student.embeddings.requires_grad_(False)
    arguments = TrainingArguments(
        folder,
        max_steps=steps,
        per_device_train_batch_size=batch_size,
        learning_rate=5e-4,
        save_steps=save_steps,
        logging_steps=10,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    sparsity = sparse.Static(0.8, init_method="topk")
    return Distillation(
        student,
        arguments,
        train_dataset=rows,
        data_collator=DataCollatorWithPadding(tokenizer),
        callbacks=[SparsityCallback(sparsity)],
    )


if __name__ == "__main__":
    trainer = make_trainer(*sys.argv[1:] or ["runs/minilm"])
    print(f"pruned to 80%: correlation with human ratings {agreement(trainer.model):.3f}")
    trainer.train()
    trainer.model.eval()
    print(f"after {trainer.state.global_step} steps: correlation {agreement(trainer.model):.3f}")
