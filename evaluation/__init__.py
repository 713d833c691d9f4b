"""Evaluation of a frozen encoder: features, linear probes by named protocol, k-NN, and weights with every key accounted for."""
