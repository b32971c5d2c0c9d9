"""Turn the standard library of the running Python into a knowledge graph.

    python examples/python_stdlib.py stdlib.parquet
    python examples/python_stdlib.py mine.parquet --root path/to/a/package

Source files are read with `ast`; nothing is imported and nothing is run. Each row is a triple (head, relation, tail)
of dotted names, e.g. ('json.decoder', 'imports', 're'). The relations:

    in_package        module -> package          calls             module, class or function -> what it calls
    imports           module -> module           raises, catches   module, class or function -> exception
    imports_name      module -> class, function  instantiates      module, class or function -> class
    defines_class     module, class -> class     decorated_by      class or function -> decorator
    defines_function  module -> function         returns, accepts  function -> class (by annotation)
    has_method        class -> function          has_parameter     function -> parameter, written `timeout=`
    inherits          class -> class             overrides         method -> method of a base class
    implements        class -> special method, written `__iter__`

Names are resolved as far as the source allows: imports and their aliases (including re-exports and `from m import *`),
methods on `self`, `cls` and `super()` along the base classes, and methods of a local variable that is assigned once,
from a class. What is known only at run time is skipped, not guessed. Code in a nested function is attributed to the
outermost function, whose name can be looked up.
"""

from __future__ import annotations

import argparse
import ast
import builtins
import sys
import sysconfig
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

INSTALLED = {"__pycache__", "site-packages", "dist-packages", "_bundled"}
NOISE = {"test", "tests", "idlelib", "lib2to3", "turtledemo", "encodings"}  # encodings: a hundred similar tables
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
Scope = dict[str, str | None]  # a bound name -> its dotted path, None if known only at run time
Triple = tuple[str, str, str]


@dataclass
class Module:
    """A source file: its syntax tree and the meaning of its top-level names."""

    name: str
    is_package: bool
    tree: ast.Module
    names: dict[str, str] = field(default_factory=dict)
    stars: list[str] = field(default_factory=list)


@dataclass
class Class:
    """A class: its module, its members by name, and its bases (resolved in a second pass)."""

    node: ast.ClassDef
    module: Module
    members: dict[str, str] = field(default_factory=dict)
    bases: list[str] = field(default_factory=list)


def statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a block, including those under if, try, with and loops, but not in functions and classes."""
    for node in body:
        yield node
        if not isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            for name in ("body", "orelse", "finalbody"):
                yield from statements(getattr(node, name, []))
            for handler in getattr(node, "handlers", []):
                yield from statements(handler.body)


def dotted(node: ast.expr) -> list[str] | None:
    """`a.b.c` as ["a", "b", "c"]; `super().m` as ["super()", "m"]; None for any other expression."""
    if isinstance(node, ast.Name):
        return [node.id]
    if isinstance(node, ast.Attribute):
        root = dotted(node.value)
        return [*root, node.attr] if root else None
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "super":
        return ["super()"]
    return None


def absolute(module: Module, node: ast.ImportFrom) -> str:
    """The module named by `from … import`, with leading dots resolved."""
    if not node.level:
        return node.module or ""
    parts = module.name.split(".")
    parts = parts[: len(parts) - node.level + module.is_package]
    return ".".join([*parts, *([node.module] if node.module else [])])


class Library:
    """All modules under a folder, and name resolution in them."""

    def __init__(self, root: Path, *, package: str = "", everything: bool = False) -> None:
        self.modules: dict[str, Module] = {}
        self.classes: dict[str, Class] = {}
        self.functions: dict[str, ast.FunctionDef | ast.AsyncFunctionDef] = {}
        self.unreadable: list[str] = []
        self._triples: dict[Triple, None] = {}
        skipped = INSTALLED if everything else INSTALLED | NOISE
        for path in sorted(root.rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            if skipped.isdisjoint(parts) and all(part.isidentifier() for part in parts):
                self._read(path, [*([package] if package else []), *parts])
        for module in self.modules.values():
            self._declare(module)
        for klass in self.classes.values():
            for base in klass.node.bases:
                found = self._find(dotted(base), [], klass.module)
                if found and found != "builtins.object":
                    klass.bases.append(found)

    def _read(self, path: Path, parts: list[str]) -> None:
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        try:
            self.modules[name] = Module(name, is_package, ast.parse(path.read_bytes()))
        except (SyntaxError, ValueError):
            self.unreadable.append(str(path))

    # name resolution

    def _declare(self, module: Module) -> None:
        """Record a module's definitions, imports and aliases. Definitions override imports; the first one wins."""
        imported: dict[str, str] = {}
        for node in statements(module.tree.body):
            if isinstance(node, FUNCTIONS):
                module.names[node.name] = f"{module.name}.{node.name}"
                self.functions.setdefault(f"{module.name}.{node.name}", node)
            elif isinstance(node, ast.ClassDef):
                module.names[node.name] = self._declare_class(module, node, module.name)
            elif isinstance(node, (ast.Import, ast.ImportFrom)):
                for name, target in self._imported(module, node):
                    imported.setdefault(name, target)
                    if name == "*":
                        module.stars.append(target)
            elif isinstance(node, ast.Assign) and (path := dotted(node.value)):
                for target_node in node.targets:
                    if isinstance(target_node, ast.Name) and target_node.id != path[0]:
                        imported.setdefault(target_node.id, f"{module.name}.{'.'.join(path)}")
        module.names = {**imported, **module.names}

    def _declare_class(self, module: Module, node: ast.ClassDef, outer: str) -> str:
        name = f"{outer}.{node.name}"
        if name in self.classes:
            return name
        klass = self.classes[name] = Class(node, module)
        for child in statements(node.body):
            if isinstance(child, FUNCTIONS):
                klass.members[child.name] = f"{name}.{child.name}"
                self.functions.setdefault(f"{name}.{child.name}", child)
            elif isinstance(child, ast.ClassDef):
                klass.members[child.name] = self._declare_class(module, child, name)
        return name

    @staticmethod
    def _imported(module: Module, node: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, str]]:
        """(bound name, dotted target) of an import statement; ("*", module) for a star."""
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield (alias.asname, alias.name) if alias.asname else (alias.name.split(".")[0],) * 2
        else:
            origin = absolute(module, node)
            for alias in node.names:
                yield ("*", origin) if alias.name == "*" else (alias.asname or alias.name, f"{origin}.{alias.name}")

    def resolve(self, path: str, seen: frozenset[str] = frozenset()) -> str | None:
        """The module, class or function at an absolute dotted path, following re-exports and base classes."""
        if path in seen:
            return None
        seen |= {path}
        if path in self.modules or path in self.classes or path in self.functions:
            return path
        parts = path.split(".")
        owner = next((p for n in range(len(parts) - 1, 0, -1) if (p := ".".join(parts[:n])) in self.modules), None)
        if owner is None:
            return self._compiled(path, parts)
        name, *rest = parts[owner.count(".") + 1 :]
        found = self._in_module(self.modules[owner], name, seen)
        for attribute in rest:
            found = found and (self.member(found, attribute) or self.resolve(f"{found}.{attribute}", seen))
        return found

    def _compiled(self, path: str, parts: list[str]) -> str | None:
        """A name in a module without source: only `module.name` is accepted. `_io.BytesIO` gets its public name."""
        if parts[0] not in sys.stdlib_module_names or len(parts) > 2:
            return None
        public = self.modules.get(parts[0][1:]) if parts[0].startswith("_") and len(parts) == 2 else None
        return f"{public.name}.{parts[1]}" if public and public.names.get(parts[1]) == path else path

    def _in_module(self, module: Module, name: str, seen: frozenset[str]) -> str | None:
        if name in module.names:
            target = module.names[name]
            first = target.removeprefix(f"{module.name}.").split(".")[0]
            if target.startswith(f"{module.name}.") and first not in module.names and hasattr(builtins, first):
                return f"builtins.{first}"  # error = OSError
            return self.resolve(target, seen)
        for star in module.stars:
            other = self.modules.get(star)
            if other is None or name.startswith("_"):
                continue
            if found := self._in_module(other, name, seen | {f"{star}.{name}"}):
                return found
        return None

    def _find(self, path: list[str] | None, scopes: list[Scope], module: Module) -> str | None:
        """Resolve a dotted expression in `scopes` (innermost last), then in the module, then in the builtins."""
        if path is None:
            return None
        root, *rest = path
        scope = next((s for s in reversed(scopes) if root in s), None)
        if scope is not None:
            start = scope[root]
        elif root in module.names or module.stars:
            start = f"{module.name}.{root}" if self._in_module(module, root, frozenset()) else None
        else:
            start = None
        if start is None:
            unbound = scope is None and root not in module.names
            return f"builtins.{root}" if unbound and not rest and hasattr(builtins, root) else None
        return self.resolve(".".join([start, *rest]))

    def ancestors(self, name: str) -> list[str]:
        """The class and its bases, nearest first."""
        found: dict[str, None] = {}
        waiting = [name]
        while waiting:
            current = waiting.pop(0)
            if current not in found:
                found[current] = None
                waiting += self.classes[current].bases if current in self.classes else []
        return list(found)

    def member(self, owner: str, name: str, *, inherited_only: bool = False) -> str | None:
        """The method or inner class `name` of a class, looked up along its bases."""
        for ancestor in self.ancestors(owner)[int(inherited_only) :]:
            if ancestor in self.classes:
                if name in self.classes[ancestor].members:
                    return self.classes[ancestor].members[name]
            elif ancestor.startswith("builtins.") and isinstance(kind := getattr(builtins, ancestor[9:], None), type):
                for base in kind.__mro__[:-1]:
                    if name in vars(base):
                        return f"builtins.{base.__name__}.{name}"
        return None

    # extracting triples

    def triples(self) -> list[Triple]:
        """All distinct triples, in source order."""
        self._triples = {}
        for module in self.modules.values():
            self._module(module)
        return list(self._triples)

    def _add(self, head: str, relation: str, tail: str | None) -> None:
        if tail and tail != head:
            self._triples[head, relation, tail] = None

    def _module(self, module: Module) -> None:
        package = module.name.rpartition(".")[0]
        if package:
            self._add(module.name, "in_package", package)
        for node in ast.walk(module.tree):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                self._imports(module, node)
        scopes: list[Scope] = []
        loose: list[ast.AST] = []
        for node in module.tree.body:
            loose += self._block(node, module.name, module, scopes)
        self._behaviour(loose, module.name, module, scopes)

    def _imports(self, module: Module, node: ast.Import | ast.ImportFrom) -> None:
        if isinstance(node, ast.Import):
            for alias in node.names:
                self._add(module.name, "imports", self.resolve(alias.name))
            return
        origin = absolute(module, node)
        for alias in node.names:
            found = self.resolve(f"{origin}.{alias.name}") if alias.name != "*" else None
            if found in self.modules:
                self._add(module.name, "imports", found)
            else:
                self._add(module.name, "imports", self.resolve(origin))
                self._add(module.name, "imports_name", found)

    def _block(self, node: ast.stmt, owner: str, module: Module, scopes: list[Scope]) -> list[ast.AST]:
        """Handle a statement of a module or class body. Returns the nodes that are executed with the body."""
        if isinstance(node, ast.ClassDef):
            self._class(node, f"{owner}.{node.name}", owner, module, scopes)
            return []
        if isinstance(node, FUNCTIONS):
            self._function(node, f"{owner}.{node.name}", owner, module, scopes)
            return []
        loose: list[ast.AST] = []
        waiting: list[ast.AST] = [node]
        while waiting:
            current = waiting.pop()
            if isinstance(current, (*FUNCTIONS, ast.ClassDef)):
                self._block(current, owner, module, scopes)
            else:
                loose.append(current)
                waiting += ast.iter_child_nodes(current)
        return loose

    def _class(self, node: ast.ClassDef, name: str, owner: str, module: Module, scopes: list[Scope]) -> None:
        if name not in self.classes:
            return
        klass = self.classes[name]
        self._add(owner, "defines_class", name)
        for base in klass.bases:
            self._add(name, "inherits", base)
        for decorator in node.decorator_list:
            self._decorated(name, decorator, module, scopes)
        for member in klass.members:
            if member.startswith("__") and member.endswith("__"):
                self._add(name, "implements", member)
        inside: list[Scope] = [*scopes, dict(klass.members)]
        loose = [inner for child in node.body for inner in self._block(child, name, module, inside)]
        self._behaviour(loose, name, module, inside)

    def _function(
        self,
        node: ast.FunctionDef | ast.AsyncFunctionDef,
        name: str,
        owner: str,
        module: Module,
        scopes: list[Scope],
    ) -> None:
        in_class = owner in self.classes
        self._add(owner, "has_method" if in_class else "defines_function", name)
        for decorator in node.decorator_list:
            self._decorated(name, decorator, module, scopes)
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        static = any(dotted(d) == ["staticmethod"] for d in node.decorator_list)
        me = arguments[0].arg if in_class and arguments and not static else None
        for argument in arguments:
            if argument.arg != me and not argument.arg.startswith("_"):
                self._add(name, "has_parameter", f"{argument.arg}=")
            if argument.annotation:
                for found in self._annotation(argument.annotation, module, scopes):
                    self._add(name, "accepts", found)
        if node.returns:
            for found in self._annotation(node.returns, module, scopes):
                self._add(name, "returns", found)
        if in_class:
            self._add(name, "overrides", self.member(owner, node.name, inherited_only=True))
        outer = scopes[:-1] if in_class else scopes  # class names are not visible inside methods
        nodes = [inner for statement in node.body for inner in ast.walk(statement)]
        local = self._locals([*ast.walk(node.args), *nodes], module, outer)
        if me:
            local[me] = owner
        self._behaviour(nodes, name, module, [*outer, local], owner if in_class else None)

    def _locals(self, nodes: list[ast.AST], module: Module, scopes: list[Scope]) -> Scope:
        """The names bound in a function. A name assigned once, from a class, resolves to that class."""
        local: Scope = {}
        shared: set[str] = set()
        stores: Counter[str] = Counter()
        made: dict[str, list[str]] = {}
        for node in nodes:
            if isinstance(node, ast.arg):
                local[node.arg] = None
                stores[node.arg] += 1
            elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
                local.setdefault(node.id, None)
                stores[node.id] += 1
            elif isinstance(node, (*FUNCTIONS, ast.ClassDef, ast.ExceptHandler)):
                local[node.name or ""] = None
            elif isinstance(node, (ast.Import, ast.ImportFrom)):
                local.update(pair for pair in self._imported(module, node) if pair[0] != "*")
            elif isinstance(node, ast.Global):
                shared.update(node.names)
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
                target, path = node.targets[0], dotted(node.value.func)
                if isinstance(target, ast.Name) and path:
                    made[target.id] = path
        for name, path in made.items():
            found = self._find(path, [*scopes, local], module) if stores[name] == 1 and name not in shared else None
            if found in self.classes:
                local[name] = found
        return {name: target for name, target in local.items() if name not in shared}

    def _behaviour(
        self, nodes: list[ast.AST], name: str, module: Module, scopes: list[Scope], me: str | None = None
    ) -> None:
        """Add what the nodes call, raise and catch. `me`: the class whose method contains them."""
        raised = {id(node.exc) for node in nodes if isinstance(node, ast.Raise)}
        for node in nodes:
            if isinstance(node, ast.Call):
                if id(node) not in raised:
                    self._called(name, self._meaning(node.func, module, scopes, me))
            elif isinstance(node, ast.Raise) and node.exc:
                error = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
                self._add(name, "raises", self._class_only(self._find(dotted(error), scopes, module)))
            elif isinstance(node, ast.ExceptHandler) and node.type:
                for kind in node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]:
                    self._add(name, "catches", self._class_only(self._find(dotted(kind), scopes, module)))

    def _meaning(self, node: ast.expr, module: Module, scopes: list[Scope], me: str | None) -> str | None:
        path = dotted(node)
        if path and path[0] == "super()":
            return self.member(me, path[1], inherited_only=True) if me and len(path) == 2 else None
        return self._find(path, scopes, module)

    def _called(self, name: str, found: str | None) -> None:
        if found and found not in self.modules and found != "builtins.super":
            self._add(name, "instantiates" if self._class_only(found) else "calls", found)

    def _class_only(self, name: str | None) -> str | None:
        if name in self.classes:
            return name
        kind = getattr(builtins, name[9:], None) if name and name.startswith("builtins.") else None
        return name if isinstance(kind, type) else None

    def _decorated(self, name: str, node: ast.expr, module: Module, scopes: list[Scope]) -> None:
        found = self._find(dotted(node.func if isinstance(node, ast.Call) else node), scopes, module)
        self._add(name, "decorated_by", found)

    def _annotation(self, node: ast.expr, module: Module, scopes: list[Scope]) -> Iterator[str]:
        """The classes in an annotation, including those inside `X | None` and `list[X]`."""
        if isinstance(node, (ast.Name, ast.Attribute)):
            if found := self._class_only(self._find(dotted(node), scopes, module)):
                yield found
        else:
            for child in ast.iter_child_nodes(node):
                if isinstance(child, ast.expr):
                    yield from self._annotation(child, module, scopes)


def main() -> int:
    """Read and resolve the sources, write Parquet and print a summary."""
    parser = argparse.ArgumentParser(description="Write a knowledge graph of Python source code as Parquet.")
    parser.add_argument("output", type=Path, help="the Parquet file to write: head, relation, tail")
    parser.add_argument("--root", type=Path, help="a package or folder to read instead of the standard library")
    parser.add_argument("--all", action="store_true", help="include tests, idlelib, lib2to3, turtledemo and encodings")
    arguments = parser.parse_args()

    import pyarrow as pa
    import pyarrow.parquet as pq

    began = time.perf_counter()
    root: Path = arguments.root or Path(sysconfig.get_path("stdlib"))
    if not root.is_dir():
        parser.error(f"{root} is not a folder")
    package = root.resolve().name if (root / "__init__.py").exists() else ""
    library = Library(root, package=package, everything=arguments.all)
    triples = library.triples()
    if not triples:
        parser.error(f"no Python source under {root}")
    heads, relations, tails = zip(*triples, strict=True)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"head": pa.array(heads), "relation": pa.array(relations), "tail": pa.array(tails)})
    pq.write_table(table, arguments.output, compression="zstd")

    for path in library.unreadable:
        print(f"skipped, not valid Python {sys.version_info[0]}.{sys.version_info[1]}: {path}", file=sys.stderr)
    entities = len(set(heads) | set(tails))
    print(
        f"Python {sys.version.split()[0]}: {len(library.modules):,} modules, {len(library.classes):,} classes, "
        f"{len(library.functions):,} functions"
    )
    for relation, count in Counter(relations).most_common():
        print(f"  {relation:<17}{count:>8,}")
    seconds = time.perf_counter() - began
    print(f"{len(triples):,} triples of {entities:,} entities in {seconds:.1f} s -> {arguments.output}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
