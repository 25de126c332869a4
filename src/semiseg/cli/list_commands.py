"""``semiseg methods``, ``networks`` and ``datasets``: list what is available."""

from __future__ import annotations

from semiseg.cli.option_parsing import Argv, no_arguments, parse


def methods(argv: Argv) -> None:
    """List the training methods."""
    parse(no_arguments("List the training methods and their options."), argv, "semiseg methods")
    from semiseg.config import to_mapping
    from semiseg.methods import ALIASES, METHODS, VARIANTS

    for name, method in METHODS.items():
        alias = ", ".join(alias for alias, target in ALIASES.items() if target == name)
        print(f"{name}{f' ({alias})' if alias else ''}: {(method.__doc__ or '').splitlines()[0]}")
        for option, value in to_mapping(method.Options()).items():
            shown = " ".join(value) if isinstance(value, list) else value
            print(f"    --{option.replace('_', '-')} {shown}")
    for name, (target, options) in VARIANTS.items():
        given = " ".join(f"--{option.replace('_', '-')} {value}" for option, value in options.items())
        print(f"{name}: {target} with {given}")


def networks(argv: Argv) -> None:
    """List the architectures and their numbers of parameters."""
    parse(no_arguments("List the networks and their numbers of parameters."), argv, "semiseg networks")
    from semiseg.networks import list_networks

    print(f"{'--architecture':<26}{'--encoder':<26}{'parameters':>12}{'encoder':>10}{'residual sites':>16}")
    for row in list_networks():
        whole, encoder = (f"{int(row[key]) / 1e6:.1f} M" for key in ("parameters", "encoder_parameters"))
        print(f"{row['architecture']:<26}{row['encoder']:<26}{whole:>12}{encoder:>10}{row['residual_sites']:>16}")


def datasets(argv: Argv) -> None:
    """List the supported forms of data."""
    parse(no_arguments("List the supported forms of data."), argv, "semiseg datasets")
    from semiseg.data import DATASETS
    from semiseg.data.importers import IMPORTERS

    print("read by --data:")
    for name, kind in DATASETS.items():
        _print_form(name, kind)
    print("\nimported by semiseg import SOURCE --out DIR [--form NAME]:")
    for name, importer in IMPORTERS.items():
        _print_form(name, importer)


def _print_form(name: str, kind: object) -> None:
    """Print the first line of the description of a form, and its files."""
    print(f"{name}: {(kind.__doc__ or '').strip().splitlines()[0]}")
    for line in getattr(kind, "tree", ()):  # generated data has no files
        print(f"    {line}")
