"""Small problems on one thread: a pool costs them more than it gives, and parallel workers fight over the cores."""

import torch

torch.set_num_threads(1)
