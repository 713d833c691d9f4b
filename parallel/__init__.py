"""All that talks to other processes; the only importer of torch.distributed. On one process it is the identity."""

from .batch_norm import synchronise_batch_norm
from .gather import AllRanks, all_reduce_sum, average_gradients, gather
from .start import World, start_world
