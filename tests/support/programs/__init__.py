"""Programs that know nothing of energyest, for `energyest run`."""

from tests.support.torchvision_operators import complete

complete()
