"""References in NumPy and float64 for the checks of networks and evaluations."""

import numpy as np
from scipy import optimize, special

# Added to variances by Flax's batch norm.
_EPSILON = 1e-5


def resnet(variables: dict, x: np.ndarray) -> np.ndarray:
    """Returns the features of `ResNet((1, 1), small_images=True)` in NumPy, `[batch, dim]`."""
    params = variables["params"]
    stats = variables["batch_stats"]
    x = np.maximum(_norm(_conv(x, params["stem"]), params["stem_norm"], stats["stem_norm"]), 0)
    for block, stride in (("block0", 1), ("block1", 2)):
        p = params[block]
        s = stats[block]
        y = np.maximum(_norm(_conv(x, p["Conv_0"], stride), p["BatchNorm_0"], s["BatchNorm_0"]), 0)
        y = _norm(_conv(y, p["Conv_1"]), p["BatchNorm_1"], s["BatchNorm_1"])
        if "Conv_2" in p:
            x = _norm(_conv(x, p["Conv_2"], stride), p["BatchNorm_2"], s["BatchNorm_2"])
        x = np.maximum(x + y, 0)
    return x.mean(axis=(1, 2))


def _conv(x, params, stride=1):
    kernel = params["kernel"]
    side = kernel.shape[0]
    x = np.pad(x, ((0, 0), (side // 2,) * 2, (side // 2,) * 2, (0, 0)))
    height, width = (size - side + 1 for size in x.shape[1:3])
    taps = [(i, j) for i in range(side) for j in range(side)]
    return sum(x[:, i : i + height : stride, j : j + width : stride] @ kernel[i, j] for i, j in taps)


def _norm(x, params, stats):
    return (x - stats["mean"]) / np.sqrt(stats["var"] + _EPSILON) * params["scale"] + params["bias"]


def standardised(features: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Returns features less the mean of the training features, divided by their standard deviation."""
    train = train.astype(np.float64)
    return (features - train.mean(axis=0)) / train.std(axis=0)


def logistic_regression(
    features: np.ndarray, labels: np.ndarray, classes: int, penalty: float
) -> tuple[np.ndarray, np.ndarray]:
    """Returns weights `[dim, classes]` and bias `[classes]` that minimise cross-entropy + penalty / 2 * |weights|^2."""
    onehot = np.eye(classes)[labels]
    shape = features.shape[1] + 1, classes

    def objective(flat):
        weights, bias = np.split(flat.reshape(shape), [-1])
        logits = features @ weights + bias
        residual = (special.softmax(logits, axis=1) - onehot) / len(labels)
        value = np.mean(special.logsumexp(logits, axis=1) - logits[onehot == 1]) + penalty / 2 * np.sum(weights**2)
        return value, np.concatenate([features.T @ residual + penalty * weights, residual.sum(axis=0)[None]]).ravel()

    options = {"maxiter": 10_000, "ftol": 1e-15, "gtol": 1e-9}
    found = optimize.minimize(objective, np.zeros(shape).ravel(), jac=True, method="L-BFGS-B", options=options)
    weights, bias = np.split(found.x.reshape(shape), [-1])
    return weights, bias[0]


def vote_shares(
    train: np.ndarray, labels: np.ndarray, test: np.ndarray, classes: int, k: int, temperature: float
) -> np.ndarray:
    """Returns the shares `[n, classes]` of the classes among the k nearest by cosine, weighted by exp(cosine / temperature)."""
    train, test = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (train.astype(float), test.astype(float)))
    cosine = test @ train.T
    near = np.argsort(-cosine, axis=1, kind="stable")[:, :k]
    weights = np.exp(np.take_along_axis(cosine, near, axis=1) / temperature)
    votes = np.einsum("nk,nkc->nc", weights, np.eye(classes)[labels[near]])
    return votes / weights.sum(axis=1, keepdims=True)


def sgd_classifier(
    features: np.ndarray, labels: np.ndarray, classes: int, batches: np.ndarray, rate: float, momentum: float
) -> tuple[np.ndarray, np.ndarray]:
    """Returns weights and bias after SGD with momentum from zero over batches of indices, `[steps, batch]`."""
    extended = np.concatenate([features.astype(np.float64), np.ones((len(features), 1))], axis=1)
    params = np.zeros((extended.shape[1], classes))
    velocity = np.zeros_like(params)
    for batch in batches:
        residual = special.softmax(extended[batch] @ params, axis=1) - np.eye(classes)[labels[batch]]
        velocity = momentum * velocity + extended[batch].T @ residual / len(batch)
        params -= rate * velocity
    return params[:-1], params[-1]
