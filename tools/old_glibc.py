"""A compiler whose libraries load where glibc 2.28 is, though a newer one is installed here; make_dist.py uses it.

glibc 2.34 moved pthread_create, dlsym and their like into libc.so.6 under a new version. What is linked against it
asks for that version, and runs on no older system, although the functions are the same. The old versions are still
there, and stand-ins of the libraries that they came from make the linker choose them. What g++ takes from a newer
libstdc++ is defined here and linked in.
"""

from __future__ import annotations

import collections
import os
import re
import subprocess
from pathlib import Path

OLD_HOMES = {"pthread_": "libpthread.so.0", "sem_": "libpthread.so.0", "dl": "libdl.so.2", "shm_": "librt.so.1"}
NEWER = """
#include <new>
#include <sstream>

extern "C" {
__attribute__((visibility("hidden"))) char __libc_single_threaded;  // false: atomic operations throughout
}

namespace std {
void __throw_bad_array_new_length() { throw bad_array_new_length(); }
template basic_stringstream<char>::basic_stringstream();
template basic_ostringstream<char>::basic_ostringstream();
}  // namespace std
"""


def compiler(folder: Path) -> str:
    """Writes a compiler to ``folder``; returns its path. It is the one in CXX, or c++, with more to link."""
    real = os.environ.get("CXX") or "c++"
    (folder / "newer.cpp").write_text(NEWER)
    subprocess.run([*real.split(), "-O2", "-fPIC", "-c", "newer.cpp"], cwd=folder, check=True)
    stand_ins = [_stand_in(name, symbols, real, folder) for name, symbols in _moved_symbols(real).items()]
    script = folder / "g++"
    script.write_text(
        "#!/bin/sh\n"
        f'case " $* " in *" -c "* | *" -E "* | *" -M "*) exec {real} "$@" ;; esac\n'
        f'exec {real} "$@" {folder}/newer.o -Wl,--as-needed {" ".join(stand_ins)}\n'
    )
    script.chmod(0o755)
    return str(script)


def _moved_symbols(real: str) -> dict[str, dict[str, str]]:
    """{library: {symbol: version}} of what libc.so.6 has under a version newer than 2.28, and under an old one, too."""
    libc = subprocess.check_output([*real.split(), "-print-file-name=libc.so.6"], text=True).strip()
    listed = subprocess.check_output(["nm", "-D", "--defined-only", libc], text=True)
    found = {library: {} for library in OLD_HOMES.values()}
    versions = collections.defaultdict(list)
    for name, default, *parts in re.findall(r" (\w+)(@@?)GLIBC_(\d+)\.(\d+)((?:\.\d+)?)$", listed, re.MULTILINE):
        versions[name].append((int(parts[0]), int(parts[1]), parts[2], default == "@@"))
    for name, known in versions.items():
        old = [version for version in known if version[:2] <= (2, 28)]
        home = next((library for prefix, library in OLD_HOMES.items() if name.startswith(prefix)), None)
        if home and old and not any(is_default for *_, is_default in old):
            major, minor, rest, _ = max(old)
            found[home][name] = f"GLIBC_{major}.{minor}{rest}"
    return found


def _stand_in(library: str, symbols: dict[str, str], real: str, folder: Path) -> str:
    """Builds a library that has these symbols, to be linked against and never loaded; returns its path."""
    source, script = folder / f"{library}.s", folder / f"{library}.map"
    lines = [".text"]
    for number, (name, version) in enumerate(symbols.items()):
        label = f"s{number}"
        lines += [f".globl {label}", f".type {label}, %function", f"{label}:", f".symver {label}, {name}@@{version}"]
    source.write_text("\n".join([*lines, ".byte 0"]) + "\n")
    script.write_text("".join(f"{version} {{ }};\n" for version in sorted({*symbols.values(), "GLIBC_2.0"})))
    options = ["-shared", "-nostdlib", f"-Wl,-soname,{library}", f"-Wl,--version-script,{script}"]
    subprocess.run([*real.split(), *options, source, "-o", folder / library], check=True)
    return str(folder / library)
