"""One case of each design, for tests of what holds for all of them."""

import pytest
from factory import FTFV_CASES, IVA_CASES, PLLAVA_CASES, VIDEOLLAMA2_AV_CASES, VIDEOLLAMA2_CASES
from linvt_design_case import LINVT_CASES

DESIGNS = [
    PLLAVA_CASES[0],
    VIDEOLLAMA2_CASES[1],
    VIDEOLLAMA2_AV_CASES[0],
    FTFV_CASES[0],
    IVA_CASES[0],
    LINVT_CASES[0],
]
every_design = pytest.mark.parametrize("case", DESIGNS, ids=lambda case: case.name)
