"""Transfer: how well a frozen encoder serves a downstream task.

`features` runs an encoder over a source; `knn` and `linear_probe` classify its features; `protocol` names the splits, chooses
hyperparameters on the validation split and reports the test split once. Accuracies are offline: the encoder is finished.
"""
