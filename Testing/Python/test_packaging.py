"""The extension as Slicer's build system makes it, and its descriptions against each other.

The build runs against the stand-in of Slicer's CMake package in Testing/Packaging; with SLICER_SOURCE_DIR and
CTK_SOURCE_DIR (checkouts of Slicer and CTK) in the environment, a second time with their own macros.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = Path("lib/Slicer-5.10/qt-scripted-modules")
DESCRIPTION = Path("share/Slicer-5.10/DiffPoseSlicer.s4ext")


def expected_files() -> set[Path]:
    """What an installed extension holds: the module, its whole library, and what it reads from Resources."""
    module = ROOT / "DiffPoseSlicer"
    library = [
        file
        for file in (module / "DiffPoseSlicerLib").rglob("*")
        if file.is_file() and file.suffix != ".pyc" and not file.name.endswith("~")
    ]
    resources = [
        file
        for file in (ROOT / "Resources").rglob("*")
        if file.is_file() and not file.is_relative_to(ROOT / "Resources" / "Screenshots")
    ]
    files = {MODULES / file.relative_to(module) for file in [module / "DiffPoseSlicer.py", *library]}
    return files | {MODULES / file.relative_to(ROOT) for file in resources} | {DESCRIPTION}


def tool(name: str) -> str:
    """CMake's programs, from the package in the environment: Slicer's macros want a newer one than systems have."""
    suffix = ".exe" if os.name == "nt" else ""
    return str(Path(sysconfig.get_path("scripts"), name + suffix))


def run(*command: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run([str(word) for word in command], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command[:3]} failed:\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module", params=["stand-in", "real macros"])
def build(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build folder, configured and built; the install is in its `installed`."""
    compilers = [name for name in ("c++", "g++", "clang++", "cl") if shutil.which(name)]
    if not compilers or not any(map(shutil.which, ("make", "ninja", "nmake", "msbuild"))):
        pytest.skip("needs a C++ compiler and make, as every build with Slicer does")
    options = []
    if request.param == "real macros":
        checkouts = {name: os.environ.get(f"{name}_SOURCE_DIR") for name in ("SLICER", "CTK")}
        if not all(checkouts.values()):
            pytest.skip("needs checkouts of Slicer and CTK, named by SLICER_SOURCE_DIR and CTK_SOURCE_DIR")
        options = [f"-DREAL_{name}_SOURCE={path}" for name, path in checkouts.items()]
    folder = tmp_path_factory.mktemp("build")
    slicer = ROOT / "Testing" / "Packaging" / "Slicer"
    run(tool("cmake"), "-S", ROOT, "-B", folder, f"-DSlicer_DIR={slicer}", "-DCMAKE_BUILD_TYPE=Release", *options)
    run(tool("cmake"), "--build", folder, "--parallel", "2")
    run(tool("cmake"), "--install", folder, "--prefix", folder / "installed")
    return folder


def without_bytecode(files: set[Path]) -> set[Path]:
    return {file for file in files if file.suffix != ".pyc"}


def test_installed_tree_is_complete_and_holds_nothing_else(build: Path) -> None:
    installed = build / "installed"
    found = {file.relative_to(installed) for file in installed.rglob("*") if file.is_file()}
    assert without_bytecode(found) == expected_files()
    for file in expected_files() - {DESCRIPTION}:
        source = ROOT / file.relative_to(MODULES)
        source = source if source.exists() else ROOT / "DiffPoseSlicer" / file.relative_to(MODULES)
        assert (installed / file).read_bytes() == source.read_bytes(), file


def test_resources_lie_beside_the_module_where_slicer_looks(build: Path) -> None:
    module = build / "installed" / MODULES
    assert (module / "DiffPoseSlicer.py").is_file()
    assert (module / "Resources" / "UI" / "DiffPoseSlicer.ui").is_file()
    assert (module / "Resources" / "Icons" / "DiffPoseSlicer.svg").is_file()
    # A file beside the module file would be taken for a module of its own.
    assert [file.name for file in module.glob("*.py")] == ["DiffPoseSlicer.py"]


def test_library_runs_from_the_installed_tree(build: Path) -> None:
    code = (
        "import DiffPoseSlicerLib as d, pathlib; c = d.CArm(1000, (8, 8), (1, 1)); "
        "print(d.__version__, pathlib.Path(d.__file__).parent.parent)"
    )
    environment = {**os.environ, "PYTHONPATH": str(build / "installed" / MODULES), "PYTHONDONTWRITEBYTECODE": "1"}
    output = subprocess.check_output([sys.executable, "-c", code], text=True, env=environment, cwd=build)
    assert output.split()[1] == str(build / "installed" / MODULES)


OPEN_IN_HOST = """
import sys
from slicerhost.app import start
host = start()
host.load(sys.argv[1])
widget = host.open("DiffPoseSlicer")
import DiffPoseSlicerLib
print("errors:", host.errors)
print("library:", DiffPoseSlicerLib.__file__)
print("resources:", widget.resourcePath("UI/DiffPoseSlicer.ui"))
"""


def open_in_host(module: Path) -> dict[str, str]:
    """What the module says of itself once it is open in the test host, in a process of its own."""
    # Slicer itself puts the module's folder on the path.
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "Testing" / "Host"), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", OPEN_IN_HOST, str(module)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    said = dict(re.findall(r"^(errors|library|resources): (.*)$", done.stdout, re.MULTILINE))
    assert "resources" in said, done.stderr[-3000:]
    return said


def test_module_opens_from_the_installed_tree(build: Path) -> None:
    modules = build / "installed" / MODULES
    said = open_in_host(modules / "DiffPoseSlicer.py")
    assert said["errors"] == "[]"
    assert Path(said["library"]).is_relative_to(modules)
    assert Path(said["resources"]) == modules / "Resources" / "UI" / "DiffPoseSlicer.ui"


def test_module_opens_from_the_source_tree() -> None:
    said = open_in_host(ROOT / "DiffPoseSlicer" / "DiffPoseSlicer.py")
    assert said["errors"] == "[]"
    assert Path(said["resources"]) == ROOT / "Resources" / "UI" / "DiffPoseSlicer.ui"


def test_slicers_tests_are_registered(build: Path) -> None:
    listed = run(tool("ctest"), "-N", cwd=build)
    assert re.search(r": py_DiffPoseSlicer$", listed, re.MULTILINE)
    assert re.search(r": py_test_installed_module$", listed, re.MULTILINE)


def test_package_holds_the_installed_tree(build: Path) -> None:
    run(tool("cpack"), "-G", "TGZ", cwd=build)
    (package,) = build.glob("*-DiffPoseSlicer*.tar.gz")
    with tarfile.open(package) as archive:
        names = {Path(*Path(member.name).parts[1:]) for member in archive if member.isfile()}
    assert without_bytecode(names) == expected_files()


def test_description_that_cmake_writes_agrees_with_ours(build: Path) -> None:
    made, ours = (read_s4ext(folder / "DiffPoseSlicer.s4ext") for folder in (build, ROOT))
    for key in (
        "homepage",
        "contributors",
        "category",
        "iconurl",
        "description",
        "screenshoturls",
        "depends",
        "scmurl",
    ):
        assert made[key] == ours[key], key


# --- Descriptions, without a build -----------------------------------------------------------------------------------


def read_s4ext(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    return {key: value.strip() for key, _, value in (line.partition(" ") for line in lines)}


def read_cmake() -> dict[str, str]:
    """The EXTENSION_ variables, read as the catalog's checks read them: one quoted line each."""
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    return dict(re.findall(r'^set\(EXTENSION_(\w+) "([^"\n]*)"\)$', text, re.MULTILINE))


@pytest.fixture(scope="module")
def catalog() -> dict:
    return json.loads((ROOT / "DiffPoseSlicer.json").read_text(encoding="utf-8"))


def test_s4ext_and_cmake_agree() -> None:
    s4ext, cmake = read_s4ext(ROOT / "DiffPoseSlicer.s4ext"), read_cmake()
    for key in ("HOMEPAGE", "CATEGORY", "CONTRIBUTORS", "DESCRIPTION", "ICONURL", "SCREENSHOTURLS", "DEPENDS"):
        assert s4ext[key.lower()] == cmake[key], key
    assert ";" not in cmake["DESCRIPTION"]  # CMake would take it for a list


def test_every_address_is_in_one_repository(catalog: dict) -> None:
    """Each file needs it in full; it changes in all of them at once."""
    homepage = read_cmake()["HOMEPAGE"]
    raw = homepage.replace("https://github.com/", "https://raw.githubusercontent.com/")
    assert catalog["scm_url"] == f"{homepage}.git"
    assert f'Homepage = "{homepage}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for name in ("ICONURL", "SCREENSHOTURLS"):
        assert all(url.startswith(f"{raw}/main/Resources/") for url in read_cmake()[name].split()), name


def test_catalog_entry_agrees_and_keeps_its_schema(catalog: dict) -> None:
    s4ext, cmake = read_s4ext(ROOT / "DiffPoseSlicer.s4ext"), read_cmake()
    required = {"$schema", "category", "scm_url"}
    optional = {"scm_revision", "scm_type", "build_dependencies", "build_subdirectory", "enabled", "tier"}
    assert required <= set(catalog) <= required | optional | {"dicom_support_rule"}
    assert catalog["$schema"].endswith("slicer-extension-catalog-entry-schema-v1.0.2.json#")
    assert catalog["category"] == cmake["CATEGORY"]
    assert catalog["scm_url"] == s4ext["scmurl"]
    assert catalog["scm_revision"] == s4ext["scmrevision"]
    assert " ".join(catalog["build_dependencies"]) == s4ext["depends"]
    assert str(catalog["tier"]) == s4ext["tier"]
    assert catalog["tier"] in range(1, 6)


def test_catalog_entry_fits_slicers_own_schema(catalog: dict) -> None:
    checkout = os.environ.get("SLICER_SOURCE_DIR")
    if not checkout:
        pytest.skip("needs a checkout of Slicer, named by SLICER_SOURCE_DIR")
    name = catalog["$schema"].rpartition("/")[2].rstrip("#")
    schema = json.loads(Path(checkout, "Schemas", name).read_text(encoding="utf-8"))
    assert set(schema["required"]) <= set(catalog) <= set(schema["properties"])
    kinds = {"string": str, "array": list, "boolean": bool, "integer": int}
    for key, value in catalog.items():
        assert isinstance(value, kinds[schema["properties"][key]["type"]]), key


def test_names_follow_the_catalogs_rules(catalog: dict) -> None:
    project = re.search(r"^project\((\w+)\)$", (ROOT / "CMakeLists.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert project
    assert project[1] == "DiffPoseSlicer"
    assert not project[1].startswith("Slicer")
    repository = catalog["scm_url"].rpartition("/")[2].removesuffix(".git")
    assert repository.startswith("Slicer")
    assert read_cmake()["HOMEPAGE"].endswith(repository)


def test_pictures_named_by_url_are_in_the_repository() -> None:
    cmake = read_cmake()
    urls = [cmake["ICONURL"], *cmake["SCREENSHOTURLS"].split()]
    for url in urls:
        assert "?" not in url
        path = ROOT / url.partition("/main/")[2]
        assert path.is_file(), path
        assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    icon = (ROOT / "Resources" / "Icons" / "DiffPoseSlicer.png").read_bytes()
    assert struct.unpack(">II", icon[16:24]) == (128, 128)


def tracked_files() -> list[Path]:
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("needs a git checkout")
    return [ROOT / name for name in run("git", "ls-files", "-z", cwd=ROOT).split("\0") if name]


def test_repository_is_small_and_its_lines_end_as_the_catalog_wants() -> None:
    files = [file for file in tracked_files() if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 20e6  # the catalog allows 100 MB
    texts = {".py", ".md", ".txt", ".json", ".s4ext", ".ui", ".svg", ".toml", ".cmake", ".yml"}
    assert [file for file in files if file.suffix in texts and b"\r" in file.read_bytes()] == []


def test_readme_and_license_say_what_the_catalog_asks_for() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme.startswith("# DiffPoseSlicer\n")
    for asked in ("![", "## License", "arxiv.org", "clinical", "patent"):
        assert asked in readme, asked
    assert "MIT License" in (ROOT / "LICENSE.txt").read_text(encoding="utf-8")


def test_module_folder_is_no_package() -> None:
    """Slicer's loader skips a folder with an __init__.py."""
    assert not (ROOT / "DiffPoseSlicer" / "__init__.py").exists()
