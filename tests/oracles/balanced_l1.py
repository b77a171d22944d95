"""Balanced L1 from its definition: the integral of the gradient that section 3.3 of the paper asks for."""

import math


def gradient(error: float, alpha: float, gamma: float) -> float:
    b = math.exp(gamma / alpha) - 1
    return alpha * math.log(b * error + 1) if error < 1 else gamma


def paper_loss(error: float, alpha: float, gamma: float, beta: float, steps: int = 4000) -> float:
    """``beta * L1(error / beta)``, integrated with the midpoint rule."""
    end = abs(error) / beta
    inner = min(end, 1.0)
    integral = sum(gradient((i + 0.5) * inner / steps, alpha, gamma) for i in range(steps)) * inner / steps
    return beta * (integral + gamma * (end - inner))


def mmdet_loss(error: float, alpha: float, gamma: float, beta: float) -> float:
    """What MMDetection computes: beta scales the argument of the logarithm only."""
    d, b = abs(error), math.exp(gamma / alpha) - 1
    if d < beta:
        return alpha / b * (b * d + 1) * math.log(b * d / beta + 1) - alpha * d
    return gamma * d + gamma / b - alpha * beta
