"""For all tests: one thread, with which small networks are fastest and numbers do not depend on the machine's cores."""

import torch

torch.set_num_threads(1)
