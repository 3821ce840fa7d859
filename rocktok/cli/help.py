"""Help of commands: common options in groups, with examples; `--help-all` shows every option."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

#: Group → names of parameters, in the order in which they are shown. What stands in none is of the
#: first group.
GROUPS = {
    "Analysis": (),
    "Steps and text": (
        "pre", "post", "step", "steps", "table", "attempt", "select_at",
    ),
    "Persistence": (
        "persistence", "quantile_pre", "quantile_post", "tau_pre", "tau_post",
    ),
    "Context": (
        "context", "similarity", "window", "partners", "gamma", "eta", "embeddings", "cap", "exact",
    ),
    "Rocks": (
        "rocks", "rule", "fdr", "min_hardness", "top_k", "tau_r", "min_frequency",
        "exclude_most_frequent", "at", "types", "controls", "control_kind", "replication", "lifts",
    ),
    "Output": (
        "top", "rows", "all_types", "everything", "wide", "format_", "output", "log_only", "show",
        "force", "quiet", "fail_if", "limits",
    ),
    "Computation": ("seed", "replicates", "jobs", "dask", "explain", "allow_missing"),
    "Help": ("help_all", "help"),
}  # fmt: skip


class Command(click.Command):
    """A command whose `--help` shows the options in `common`, and `--help-all` every one.

    Attributes:
        common: names of parameters; empty: all.
        examples: (command line, what it gives), shown at the end.
    """

    def __init__(
        self,
        *args: Any,
        common: Sequence[str] = (),
        examples: Sequence[tuple[str, str]] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.common, self.examples = tuple(common), tuple(examples)
        if self.common:
            self.params.append(
                click.Option(
                    ["--help-all"],
                    is_flag=True,
                    is_eager=True,
                    expose_value=False,
                    callback=_show_everything,
                    help="Show all options and exit.",
                )
            )

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The options by group: the common ones, or all where `--help-all` asks."""
        everything = ctx.meta.get(_EVERYTHING, False) or not self.common
        by_group: dict[str, list[tuple[str, str]]] = {group: [] for group in GROUPS}
        hidden = 0
        for param in sorted(self.get_params(ctx), key=lambda param: _place(_name(param))):
            record = param.get_help_record(ctx)
            if record is None or isinstance(param, click.Argument):
                continue
            if everything or _name(param) in (*self.common, "help_all", "help"):
                by_group[_group(_name(param))].append(record)
            else:
                hidden += 1
        width = min(30, max(len(name) for records in by_group.values() for name, _ in records))
        for group, records in by_group.items():
            if records:
                with formatter.section(group):
                    # One width for all groups.
                    formatter.write_dl(
                        [(name.ljust(width), text) for name, text in records], col_max=30
                    )
        if hidden:
            formatter.write_paragraph()
            formatter.write_text(f"{hidden} more options: {ctx.command_path} --help-all")

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The examples."""
        if self.examples:
            with formatter.section("Examples"):
                for line, text in self.examples:
                    formatter.write(f"{'':>{formatter.current_indent}}{line}\n")
                    formatter.indent()
                    formatter.write_text(text)
                    formatter.dedent()


_EVERYTHING = "rocktok.help_all"


def _show_everything(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        ctx.meta[_EVERYTHING] = True
        click.echo(ctx.get_help(), color=ctx.color)
        ctx.exit()


def _name(param: click.Parameter) -> str:
    """A parameter's name; click has had several for `--help`."""
    return "help" if "--help" in param.opts else param.name or ""


def _group(name: str) -> str:
    for group, names in GROUPS.items():
        if name in names:
            return group
    return next(iter(GROUPS))


def _place(name: str) -> tuple[int, int]:
    """Groups in their order, and within one the parameters in theirs."""
    for number, names in enumerate(GROUPS.values()):
        if name in names:
            return number, names.index(name)
    return 0, 0
