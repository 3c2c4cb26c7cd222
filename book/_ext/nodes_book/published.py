"""Published numbers that stand beside recorded runs, and the names of models in the tables."""

TOYS = ("8gaussians", "checkerboard", "moons", "circles")
MODELS = {
    "gaussian": "Gaussian",
    "kde": "kernel density, best bandwidth",
    "realnvp": "RealNVP",
    "maf": "MAF",
    "cnf": "CNF, maximum likelihood",
    "fm": "CNF, flow matching",
}
# negative log-likelihood in nats, mean and spread of three runs; table 2 and 6 of FFJORD
PUBLISHED = {
    "realnvp": {"power": "−0.17 ± 0.01", "miniboone": "13.55 ± 0.49"},
    "maf": {"power": "−0.24", "miniboone": "11.75"},
    "cnf": {"power": "−0.46 ± 0.01", "miniboone": "10.43 ± 0.04"},
}

SERIES = {
    "rnn-dt": "RNN-Δt",
    "ode-rnn": "ODE-RNN",
    "rnn-vae": "RNN-VAE",
    "latent-ode-rnn": "latent ODE, RNN encoder",
    "latent-ode": "latent ODE",
}
KNOWN = {
    "goku": "GOKU-net",
    "goku-labels": "GOKU-net, 1 % labels",
    "latent-ode": "latent ODE",
    "lstm": "LSTM",
}
# mean squared error on sinusoids by share of observed times; supplement of the latent ODE paper
SINUSOIDS = {
    ("rnn-dt", "interpolate"): ".0608 .0468 .0582 .0412",
    ("rnn-dt", "extrapolate"): ".0617 .0612 .0689 .0562",
    ("ode-rnn", "interpolate"): ".0515 .0321 .0264 .0167",
    ("ode-rnn", "extrapolate"): ".0659 .0477 .1094 .0800",
    ("rnn-vae", "interpolate"): ".0735 .0735 .0732 .0730",
    ("rnn-vae", "extrapolate"): ".2011 .0371 .0728 .0287",
    ("latent-ode-rnn", "interpolate"): ".0686 .0676 .0275 .0572",
    ("latent-ode-rnn", "extrapolate"): ".0492 .0481 .0179 .0270",
    ("latent-ode", "interpolate"): ".0713 .0314 .0535 .0172",
    ("latent-ode", "extrapolate"): ".0531 .0443 .0357 .0139",
}
