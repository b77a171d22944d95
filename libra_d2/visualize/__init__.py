"""Pictures of what the model does on your own data. Needs matplotlib; nothing else in libra_d2 imports it."""

from libra_d2.checks import require_detectron2

require_detectron2()
