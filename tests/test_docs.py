"""Every code block of the README and of docs/ runs: Python in order and in one namespace for each page, commands in a shell."""

from __future__ import annotations

import builtins
import importlib
import os
import re
import shlex
import subprocess
import symtable
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "devinterp"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
MODULES = {path.name for folder in (SOURCE, ROOT / "tests") for path in folder.rglob("*.py")}
#: A path in backticks that begins with one of these is one of ours; others are paths in a store.
TOP_FOLDERS = {"src", "tests", "docs", "plugins", "news", "devinterp"} | {
    p.name for p in SOURCE.iterdir() if p.is_dir()
}
#: Blocks of these languages are no code.
PROSE = {"", "text", "bibtex"}
FENCE = re.compile(
    r"^```(?P<language>\w*)(?: +title=\"(?P<title>[^\"]+)\")?\n(?P<source>.*?)^```$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Block:
    """A code block: what it is written in, what file it is, its text, and where it starts."""

    language: str
    title: str | None
    source: str
    line: int


def blocks(page: Path) -> list[Block]:
    """Return the code blocks of a page."""
    text = page.read_text()
    found = [
        Block(match["language"], match["title"], match["source"], text.count("\n", 0, match.start("source")))
        for match in FENCE.finditer(text)
    ]
    assert 2 * len(found) == len(re.findall(r"^ *```", text, re.MULTILINE)), (
        f"{page.name}: a fence this test cannot read"
    )
    return found


def run_python(block: Block, page: Path, namespace: dict[str, object]) -> None:
    """Run a block so that a traceback names the page and the line in it."""
    exec(compile("\n" * block.line + block.source, str(page), "exec"), namespace)


def run_shell(block: Block, directory: Path) -> None:
    """Run what is ours; check that what needs the network or minutes names things that exist."""
    for line in re.sub(r"\\\n", " ", block.source).splitlines():
        for command in shlex.split(line, comments=True) and line.split("&&"):
            words = shlex.split(command, comments=True)
            match words:
                case ["devinterp", *_]:
                    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
                    done = subprocess.run(
                        words,
                        cwd=directory,
                        env={**os.environ, "PATH": path},
                        capture_output=True,
                        text=True,
                        timeout=300,
                    )
                    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
                case ["make", *options]:
                    targets = [word for word in options if "=" not in word]
                    makefile = (ROOT / "Makefile").read_text()
                    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets), command
                case ["pip", "install", *options]:
                    paths = [word.split("[")[0] for word in options if not word.startswith(("-", "dist/"))]
                    assert all((ROOT / path / "pyproject.toml").exists() or "/" not in path for path in paths), command
                case [".venv/bin/python", "-m", "pytest", *options]:
                    for path, _, test in (word.partition("::") for word in options if "/" in word):
                        assert (ROOT / path).exists(), command
                        assert not test or f"def {test}(" in (ROOT / path).read_text(), command
                case ["git" | "cd", *_] | [".venv/bin/pre-commit", "install"]:
                    pass
                case _:
                    pytest.fail(f"do not know how to test the command {command!r}")


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=pytest.mark.heavy if page.name == "symptoms.md" else ()) for page in PAGES],
    ids=lambda page: page.relative_to(ROOT).as_posix(),
)
def test_code_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)  # a block may import the files of others
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(page):
        if block.title is not None:
            (tmp_path / block.title).write_text(block.source)
        match block.language:
            case "python":
                run_python(block, page, namespace)
            case "sh":
                run_shell(block, tmp_path)
            case "toml":
                tomllib.loads(block.source)
            case language:
                assert language in PROSE, f"{page.name}: a block of unknown language {language!r}"


def free_names(source: str) -> set[str]:
    """Return the names that a block reads and does not bind itself."""

    def read(table: symtable.SymbolTable) -> set[str]:
        at_top = table.get_type() == "module"
        here = {
            symbol.get_name()
            for symbol in table.get_symbols()
            if symbol.is_referenced() and (at_top or symbol.is_global())
        }
        return here.union(*map(read, table.get_children()))

    return read(symtable.symtable(source, "block", "exec")) - bound_names(source) - set(dir(builtins))


def bound_names(source: str) -> set[str]:
    """Return the names that a block imports or assigns at its top."""
    symbols = symtable.symtable(source, "block", "exec").get_symbols()
    return {symbol.get_name() for symbol in symbols if symbol.is_assigned() or symbol.is_imported()}


def python_blocks(page: Path) -> list[Block]:
    """Return the Python of a page; the first is its set-up."""
    return [block for block in blocks(page) if block.language == "python"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_blocks_need_no_more_than_the_set_up_of_their_page(page):
    """Who copies a block copies the first one of its page before it, and nothing else."""
    set_up, *others = python_blocks(page) or [Block("python", None, "", 0)]
    given = bound_names(set_up.source)
    for block in others:
        lacking = free_names(block.source) - given
        assert not lacking, f"{page.name}, line {block.line + 1}: {sorted(lacking)} are of other blocks"


def test_no_file_hides_a_module_of_python():
    """Who saves a block under its title and runs Python there imports it in place of the standard library's."""
    titles = {Path(block.title).stem for page in PAGES for block in blocks(page) if block.title is not None}
    assert not titles & sys.stdlib_module_names


def alone() -> list[object]:
    """Return each page with the number of each of its Python blocks."""
    pages = [(page, number) for page in PAGES for number in range(len(python_blocks(page)))]
    return [pytest.param(page, number, id=f"{page.stem}-{number}") for page, number in pages]


@pytest.mark.slow
@pytest.mark.parametrize(("page", "number"), alone())
def test_blocks_run_alone_after_the_set_up_of_their_page(page, number, tmp_path):
    for block in blocks(page):
        if block.title is not None:
            (tmp_path / block.title).write_text(block.source)
    set_up, *others = python_blocks(page)
    source = "\n".join(block.source for block in ([set_up, others[number - 1]] if number else [set_up]))
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")])),
    }
    done = subprocess.run(
        [sys.executable, "-c", source],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_block_that_leans_on_another_is_seen():
    assert free_names("import numpy as np\ny = np.ones(n)\n") == {"n"}
    assert free_names("def f(x):\n    return x + offset\n") == {"offset"}
    assert free_names("[i for i in range(3)]\nprint(len('a'))\n") == set()


def test_the_plugin_of_the_readme_works_once_installed(tmp_path):
    files = {block.title: block.source for block in blocks(ROOT / "README.md") if block.title}
    project = tmp_path / "wbic"
    project.mkdir()
    (project / "wbic.py").write_text(files["wbic.py"])
    build = '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
    head = build + '[project]\nname = "wbic"\nversion = "1"\n'
    (project / "pyproject.toml").write_text(head + files["pyproject.toml"])
    site = tmp_path / "site"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "--target",
        site,
    ]
    subprocess.run([*pip, project], check=True, timeout=120)
    code = """
from devinterp.testing import synthetic_tree
tree = synthetic_tree()
result = tree.slt.wbic(num_samples=64)
loss = tree["trace/loss"].isel(restriction=0).mean()
assert abs(float(result["wbic"].squeeze()) / 64 - float(loss)) < 1e-4
"""
    environment = {**os.environ, "PYTHONPATH": str(site), "DEVINTERP_STRICT_PLUGINS": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=120)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_and_pictures_exist(page):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} points to {target}, which is not there"


def test_every_page_can_be_reached_from_the_index():
    index = (ROOT / "docs" / "index.md").read_text()
    for page in sorted((ROOT / "docs").glob("*.md")):
        assert page.name == "index.md" or f"({page.name})" in index, f"docs/index.md does not mention {page.name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_files_and_modules_that_a_page_names_exist(page):
    prose = FENCE.sub("", page.read_text())
    for path in re.findall(r"`([\w./-]+/[\w-]*(?:\.\w+)?)`", prose):
        if path.split("/")[0] in TOP_FOLDERS:
            assert any((root / path).exists() for root in (ROOT, ROOT / "src", SOURCE)), f"{page.name} names {path}"
    titles = {block.title for block in blocks(page)}
    for name in re.findall(r"`(\w+\.py)`", prose):
        assert name in MODULES | titles, f"{page.name} names {name}"
    for name in re.findall(r"`(devinterp(?:\.\w+)+)(?:\([^`]*\))?`", prose):
        assert resolves(name), f"{page.name} names {name}"


def test_the_map_of_rooms_is_right():
    text = (ROOT / "docs" / "architecture.md").read_text()
    rooms = re.findall(r"^\| (?:at the top of )?`([\w/]+)/` \| [^|]+ \| ([^|]+) \|$", text, re.MULTILINE)
    for room, files in rooms:
        for name in re.findall(r"`(\w+\.py)`", files):
            assert (SOURCE / room / name).exists(), f"the map has {name} in {room}/, where it is not"
    packages = {path.parent.relative_to(SOURCE).as_posix() for path in SOURCE.glob("*/**/__init__.py")}
    on_the_map = {room for room, _ in rooms} | set(re.findall(r"`(\w+)`", text[: text.index("### ")]))
    assert packages <= on_the_map, f"add {packages - on_the_map} to the map"


def test_the_contracts_of_the_page_are_those_that_are_checked():
    text = (ROOT / "docs" / "architecture.md").read_text()
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    text = text[text.index("## Contracts") :]
    assert re.findall(r"^\| \*(.+)\* \|", text, re.MULTILINE) == [contract["name"] for contract in contracts]


def resolves(name: str) -> bool:
    """Say whether a dotted name is a module, or an attribute of one."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


def test_the_readme_fits_a_page():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) < 130
    assert max(map(len, lines)) <= 130
