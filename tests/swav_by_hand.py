"""The loss of SwAV and its assignments in NumPy, as the paper writes them."""

import numpy as np

PAPER = {"temperature": 0.1, "epsilon": 0.05, "iterations": 3}


def naive_assignments(scores, epsilon, iterations):
    """Of one view, `[images, prototypes]`, as the paper writes it: a matrix whose rows and columns are scaled in turn."""
    q = np.exp(scores.astype(np.float64) / epsilon)
    q /= q.sum()
    images, prototypes = q.shape
    for _ in range(iterations):
        for k in range(prototypes):
            q[:, k] /= q[:, k].sum() * prototypes
        for i in range(images):
            q[i] /= q[i].sum() * images
    return q * images


def naive_swav(logits, queue=None, assigned_views=2, temperature=0.1, epsilon=0.05, iterations=3):
    views, batch, _ = logits.shape
    terms = []
    for assigned in range(assigned_views):
        together = logits[assigned] if queue is None else np.concatenate([queue[assigned], logits[assigned]])
        targets = naive_assignments(together, epsilon, iterations)[-batch:]
        for view in range(views):
            if view == assigned:
                continue
            for image in range(batch):
                x = logits[view, image].astype(np.float64) / temperature
                terms.append(-np.sum(targets[image] * (x - np.log(np.exp(x).sum()))))
    return np.mean(terms)
