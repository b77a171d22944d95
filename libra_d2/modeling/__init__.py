"""The modules of libra_d2; importing this package fills Detectron2's registries."""
