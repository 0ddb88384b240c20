"""Names of the results, and what they mean."""

_STATISTICS = {
    "variance": "variance of the in-block weights",
    "variance_error": "standard error of that variance: of sampling the weights",
    "second_moment": "mean square of the in-block weights: their variance about 0",
    "kurtosis": "kurtosis E w^4 / (E w^2)^2 of the weights within each block, averaged over blocks",
    "noise_kurtosis": "kurtosis of the noise in the nulls: of the weights less their spikes; 3 where source is spectra",
    "variance_ratio": "variance (or second moment: see compared) over the reference's (the dense sister's) at its step",
    "variance_ratio_low": "lower end of the 95 % interval of the variance ratio: of sampling both layers' weights",
    "variance_ratio_high": "upper end of that interval",
    "reference_variance": "variance of R's entries: the reference's at the same step, without one the layer's own; "
    "the second moment of singular values alone",
    "largest_singular_value": "largest singular value",
    "smallest_singular_value": "smallest singular value",
    "largest_ratio": "largest singular value over the mean of R's",
    "largest_p": "how often noise has as large a largest singular value, over all blocks",
    "smallest_p": "how often noise has as small a smallest singular value, over all blocks",
    "spikes": "singular values above the noise at 1 % of all blocks together",
    "mean_deviation": "mean over order of |1 - sigma_W / sigma_R|",
    "mean_deviation_null": "mean deviation of noise with the layer's shape and the kurtosis of its noise",
    "mean_deviation_p": "how often noise deviates as far",
    "bulk_variance": "variance of the Marchenko-Pastur law fitted to the bulk",
    "bulk_variance_error": "standard error of that variance",
    "bulk_ks": "Kolmogorov-Smirnov distance of the bulk to that law",
    "mp_softrank": "upper edge of that law over the largest eigenvalue",
    "stable_rank": "sum of squared singular values over the largest square",
    "effective_rank": "exponential of the entropy of the singular values over their sum",
    "hard_rank": "singular values above the rounding of the stored weights",
    "alpha": "exponent of a power law fitted to the upper eigenvalues, whether they follow one or not",
    "gap_ratio": "mean ratio of neighbouring gaps of singular values within blocks",
    "gap_ratio_error": "standard error of the gap ratio",
    "brody": "Brody parameter of the spacings within blocks: 0 for independent levels, near 1 for noise",
    "brody_error": "standard error of the Brody parameter",
    "variance_change": "change of the variance by what follows: until the next analysed step, or, where moments were "
    "recorded, by the next optimizer step",
    "update_variance": "variance of that change of the weights",
    "covariance_term": "twice the covariance of that change with the weights before it",
    "alpha_low": "lower end of the 95 % interval of alpha, for independent eigenvalues",
    "alpha_high": "upper end of that interval",
    "tail_p": "how often the layer's own weights in random order have as heavy a tail",
    "heavy_tailed": "1 where the tail is heavier than noise's at 5 % and a power law beats an exponential, else 0",
}
_OF_LAYER = {
    "first_departure": "first step at which the layer leaves the noise (largest_p, 5 % over all layers and steps)",
    "source": "weights, or spectra: only singular values were recorded, the nulls take the entries for Gaussian",
    "compared": "what variance_ratio compares: variance, or second moment where the source of either is spectra",
    "form": "dense, block_diagonal or block_sparse",
    "blocks": "number of blocks",
    "m": "outputs of a block",
    "n": "inputs of a block",
}
DESCRIPTIONS = {
    **_STATISTICS,
    "singular_values": "singular values of all blocks, descending",
    "singular_value_ratio": "singular values over the mean ordered ones of R",
    "block": "block that a singular value comes from",
    "null_mean": "mean ordered singular values of R at unit variance",
    "null_low": "5 % quantile of one draw of R over the mean",
    "null_high": "95 % quantile of one draw of R over the mean",
    **_OF_LAYER,
}
"""What the variables of the results mean; some are there on request only."""
COORDINATES = {
    "step": "optimizer steps done",
    "order": "order, 1 is the largest",
    "seed": "seed of the run; -1 where it has none",
    "started": "when the recording began",
    "torch_version": "version of torch that trained",
    "study": "what was trained, where a study declared it",
}
STATISTICS = tuple(_STATISTICS)
"""Names of the statistics that are one number a (run, layer, step)."""
ABSENT = {"source": "", "compared": "", "form": "", "blocks": 0, "m": 0, "n": 0, "block": -1}
"""What stands where a run has no such layer; else it is NaN."""
