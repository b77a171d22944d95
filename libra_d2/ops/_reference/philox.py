import torch
from torch import Tensor

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_MASK = 0xFFFFFFFF

BOX, GROUND_TRUTH = 0, 1  # domains


def philox4x32(counter: tuple[Tensor, ...], key: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Philox4x32-10 (Salmon et al., SC 2011) on words of 32 bits held in int64 tensors that broadcast.

    A product of two words needs 64 bits and int64 keeps them all, if not their sign: shifting and masking restores the
    high word.
    """
    x, y, z, w = counter
    key0, key1 = key
    for _ in range(_ROUNDS):
        first, second = x * _MULTIPLIERS[0], z * _MULTIPLIERS[1]
        x, z = (second >> 32 & _MASK) ^ y ^ key0, (first >> 32 & _MASK) ^ w ^ key1
        y, w = second & _MASK, first & _MASK
        key0, key1 = key0 + _WEYL[0] & _MASK, key1 + _WEYL[1] & _MASK
    return x, y, z, w


def seed_words(seed: Tensor) -> tuple[Tensor, Tensor]:
    """The key: low and high word of the int64 seed taken as 64 unsigned bits."""
    return seed & _MASK, seed >> 32 & _MASK


def draw(seed: Tensor, index: Tensor, image: Tensor, domain: int) -> tuple[Tensor, ...]:
    """Four random words for each counter ``(index, image, domain, 0)``."""
    zero = torch.zeros_like(index)
    return philox4x32((index & _MASK, image & _MASK, zero + domain, zero), seed_words(seed))
