"""Losses of two views: hyper-parameters are fields, inputs tensors, the result named terms whose sum is the loss.

Imports torch only and itself relatively, so the folder works under any name in any project.
"""

from . import matrices
from .barlow_twins import BarlowTwins
from .contrastive import NPairs, NTXent
from .inputs import at_least_float32, check_pair
from .matrices import cosine_similarity, cross_correlation, off_diagonal
from .ranks import ALONE, Ranks
from .sample_correlation import SampleCorrelation
from .sanity import Sanity
from .siglip import SigLIP
from .vicreg import VICReg

# A loss's file has the name of this function: imported above, `losses.sample_correlation` would be that file.
sample_correlation = matrices.sample_correlation
