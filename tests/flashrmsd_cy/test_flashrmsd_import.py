"""flashrmsd_cy stands on NumPy alone."""

import subprocess
import sys


def test_import_loads_neither_rdkit_nor_torch_nor_sddfkit():
    program = "import sys, flashrmsd_cy; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = set(
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    )
    assert "flashrmsd_cy" in loaded and "numpy" in loaded
    assert not loaded & {"rdkit", "sddfkit", "torch", "scipy", "networkx"}
