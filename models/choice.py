"""What viewers take of what they are shown: which movie of a slate is liked, by what each is and where it stands.

    P(movie j is the one that is liked) ~ exp(sum over features of weight x feature + weight of j's place)

This is McFadden's conditional logit ("Conditional logit analysis of qualitative choice behavior", 1974). Each slate is
compared with itself, so it does not matter who likes much, or on which day they came. Places have weights of their own:
what stands first is looked at more (Joachims, Swaminathan and Schnabel, "Unbiased learning-to-rank with biased
feedback", WSDM 2017), and a model that always saw the popular first would take that for popularity.
"""

import numpy as np

STEPS = 50  # of Newton's method at most; it takes about six
PULL = 1.0  # towards what is believed without any slate, in likings


def fit_choice(features: np.ndarray, liked: np.ndarray, there: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """(f,) weights of features (slates, places, f), by what was liked, (slates, places) bool, of what was there, same.

    prior: (f,) weights to begin with, and to stay near where slates say little. A slate without a liking says nothing.
    """
    says = (liked & there).any(axis=1)
    there, chosen = there[says], (liked & there)[says].astype(float)
    places = np.broadcast_to(np.eye(liked.shape[1]), (len(chosen), *[liked.shape[1]] * 2))
    x = np.concatenate([features[says], places], axis=2) * there[..., None]
    start = np.concatenate([prior, np.zeros(liked.shape[1])])
    weights, total = start.copy(), chosen.sum(axis=1, keepdims=True)
    for _ in range(STEPS):
        logits = np.where(there, x @ weights, -np.inf)
        chance = np.exp(logits - logits.max(axis=1, keepdims=True))
        chance *= total / chance.sum(axis=1, keepdims=True)  # expected likings at each place
        mean = np.einsum("spf,sp->sf", x, chance / np.sqrt(total))
        slope = np.einsum("spf,sp->f", x, chosen - chance) - PULL * (weights - start)
        bend = np.einsum("spf,spg->fg", x, x * chance[..., None]) - mean.T @ mean + PULL * np.eye(len(weights))
        step = np.linalg.solve(bend, slope)
        weights += step
        if np.abs(step).max(initial=0.0) < 1e-6:
            break
    return weights[: len(prior)]
