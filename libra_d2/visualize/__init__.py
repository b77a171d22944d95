"""Pictures of what the model does on your own data. Needs matplotlib; nothing else in libra_d2 imports it."""
