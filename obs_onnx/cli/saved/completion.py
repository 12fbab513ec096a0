"""``obs-onnx --install-completion``: names of commands and options at the touch of a key."""

from __future__ import annotations

import os
from pathlib import Path

import click
from click.shell_completion import get_completion_class

from obs_onnx.io.atomic_files import write_text
from obs_onnx.passes.errors import OptionError, boundary

__all__ = ["SHELLS", "install_completion"]

_PROGRAM, _VARIABLE = "obs-onnx", "_OBS_ONNX_COMPLETE"
SHELLS = ("bash", "zsh", "fish")


def install_completion(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    """Callback of the flag: write what the shell wants, say what is left to do, and end.

    Raises:
        click.ClickException: the shell is none of these, or the file cannot be written.
    """
    if value is None or ctx.resilient_parsing:
        return
    shell = Path(os.environ.get("SHELL", "")).name if value == "auto" else value
    if shell not in SHELLS:
        raise click.UsageError(
            f"no completion for {shell or 'a shell without a name'}: give one, --install-completion=bash"
        )
    make = get_completion_class(shell)
    assert make is not None
    place, hint = _place(shell)
    try:
        with boundary(f"cannot write {place}", OptionError):
            place.parent.mkdir(parents=True, exist_ok=True)
            write_text(place, make(ctx.command, {}, _PROGRAM, _VARIABLE).source())
    except OptionError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"written: {place}\nnext: {hint}")
    ctx.exit()


def _place(shell: str) -> tuple[Path, str]:
    """The file that the shell reads, and what makes it do so."""
    home = Path.home()
    data = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    config = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    if shell == "fish":
        return config / "fish" / "completions" / f"{_PROGRAM}.fish", "open a new terminal"
    if shell == "zsh":
        place = data / _PROGRAM / "completion.zsh"
        return place, f"add the line `source {place}` to ~/.zshrc behind compinit, and open a new terminal"
    place = data / "bash-completion" / "completions" / _PROGRAM
    return (
        place,
        f"open a new terminal; without the package bash-completion add `source {place}` to ~/.bashrc",
    )
