"""The papers behind the methods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Paper:
    """A paper, as one cites it."""

    method: str
    authors: str
    title: str
    year: int
    arxiv: str

    @property
    def url(self) -> str:
        """Where it can be read."""
        return f"https://arxiv.org/abs/{self.arxiv}"


PAPERS = {
    "gmp": Paper(
        "GMP",
        "M. Zhu, S. Gupta",
        "To prune, or not to prune: exploring the efficacy of pruning for model compression",
        2017,
        "1710.01878",
    ),
    "set": Paper(
        "SET",
        "D. C. Mocanu, E. Mocanu, P. Stone, P. H. Nguyen, M. Gibescu, A. Liotta",
        "Scalable training of artificial neural networks with adaptive sparse connectivity "
        "inspired by network science",
        2018,
        "1707.04780",
    ),
    "rigl": Paper(
        "RigL",
        "U. Evci, T. Gale, J. Menick, P. S. Castro, E. Elsen",
        "Rigging the lottery: making all tickets winners",
        2020,
        "1911.11134",
    ),
    "ste": Paper(
        "STE",
        "Y. Bengio, N. Léonard, A. Courville",
        "Estimating or propagating gradients through stochastic neurons for conditional "
        "computation",
        2013,
        "1308.3432",
    ),
}
_WITHOUT_PAPER = {"static": "Static: one mask for the whole run; no paper."}


def cite(sources: Mapping[str, str]) -> tuple[list[Paper], list[str]]:
    """Return the papers of methods, and a sentence for each method whose paper is not known here.

    Args:
        sources: method -> where it comes from, as far as its run says; "" if it does not.

    >>> [paper.arxiv for paper in cite({"RigL": "", "Static": ""})[0]], cite({"Mine": ""})[1]
    (['1911.11134'], ['Mine: a method of your own; no paper known here.'])
    >>> cite({"Mine": "arXiv:2102.04010"})[1]
    ['Mine: arXiv:2102.04010']
    """
    papers, others = [], []
    for name, source in {name.lower(): (name, source) for name, source in sources.items()}.values():
        if name.lower() in PAPERS:
            papers.append(PAPERS[name.lower()])
        else:
            own = f"{name}: {source or 'a method of your own; no paper known here.'}"
            others.append(_WITHOUT_PAPER.get(name.lower(), own))
    return papers, others
