"""Evaluation of a frozen encoder: features, linear probes by named protocol, k-NN, weights read to the last key."""
