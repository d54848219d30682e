"""A study's summary as Markdown and LaTeX (booktabs) tables."""

from __future__ import annotations

from collections.abc import Sequence

from ..table_text import markdown_cell
from .study_summary import StudySummary

_COLUMNS = (
    "strategy",
    "mean ratio to best",
    "95 %",
    "worst",
    "gap to bound",
    "best in",
    "mean rank",
    "failed",
    "plan time",
)
_SPECIAL = {sign: f"\\{sign}" for sign in "&%_#${}"} | {
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
}


def cells(summary: StudySummary) -> list[list[str]]:
    """Return a row of text for each strategy."""
    return [
        [
            s.strategy,
            _number(s.mean_ratio, "{:.4f}"),
            "-" if s.interval is None else f"{s.interval[0]:.4f} - {s.interval[1]:.4f}",
            _number(s.worst_ratio, "{:.3f}"),
            _number(None if s.mean_gap is None else 100 * s.mean_gap, "{:.2f} %"),
            f"{s.best} of {summary.blocks}",
            _number(s.mean_rank, "{:.2f}"),
            f"{s.failed} of {s.runs}",
            _number(None if s.plan_time_s is None else 1e3 * s.plan_time_s, "{:.3g} ms"),
        ]
        for s in summary.strategies
    ]


def columns() -> list[str]:
    """Return the column titles of `cells`."""
    return list(_COLUMNS)


def notes(summary: StudySummary) -> list[str]:
    """Return the notes below the table."""
    lines = [
        f"Simulated values over {summary.blocks} instances; ratio to the best value of any strategy in this study; "
        "bootstrap confidence intervals; plan time is the measured median."
    ]
    test = summary.test
    if test is not None:
        groups = "; ".join(", ".join(group) for group in test.groups if len(group) > 1) or "none"
        lines.append(
            f"Friedman: chi-square {test.chi_square:.1f}, p = {test.p_value:.2g}; Nemenyi's critical difference of "
            f"mean ranks at 5 %: {test.critical_difference:.2f}. Not significantly different: {groups}."
        )
    if summary.cut_short:
        lines.append(f"{summary.cut_short} runs were cut short by their time limit: a faster machine may find better.")
    if summary.unusable:
        lines.append(f"The problems of {summary.unusable} instances could not be built.")
    return lines


def to_markdown(summary: StudySummary) -> str:
    """Return the summary, performance profile and win matrix as Markdown tables."""
    parts = [_markdown(columns(), cells(summary)), "", *notes(summary), ""]
    parts += ["Share of instances solved within a factor of the best (performance profile):", ""]
    taus = [f"{tau:g}" for tau in summary.taus]
    parts.append(_markdown(["strategy", *taus], [[s.strategy, *map(_share, s.profile)] for s in summary.strategies]))
    if len(summary.strategies) > 1:
        names = [s.strategy for s in summary.strategies]
        rows = [[a, *("-" if a == b else _share(summary.wins[a][b]) for b in names)] for a in names]
        parts += [
            "",
            "Share of instances in which the row is better than the column:",
            "",
            _markdown(["", *names], rows),
        ]
    return "\n".join(parts) + "\n"


def to_latex(summary: StudySummary) -> str:
    """Return the summary as one table; needs the package booktabs."""
    head = " & ".join(map(_escaped, columns()))
    body = [" & ".join(map(_escaped, row)) + r" \\" for row in cells(summary)]
    caption = " ".join(map(_escaped, notes(summary)))
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\begin{{tabular}}{{l{'r' * (len(columns()) - 1)}}}",
            r"\toprule",
            head + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            rf"\caption{{{caption}}}",
            r"\end{table}",
            "",
        ]
    )


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(map(markdown_cell, row)) + " |" for row in (head, *rows)]
    lines.insert(1, "|" + "|".join([" --- ", *(" ---: " for _ in head[1:])]) + "|")
    return "\n".join(lines)


def _escaped(text: str) -> str:
    return "".join(_SPECIAL.get(sign, sign) for sign in text)


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _share(value: float) -> str:
    return f"{value:.0%}"
