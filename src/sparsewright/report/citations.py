"""Papers of the built-in methods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Paper:
    """The data of a citation."""

    method: str
    authors: str
    title: str
    year: int
    arxiv: str

    @property
    def url(self) -> str:
        """Return the paper's address on arXiv."""
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
_WITHOUT_PAPER = {"static": "Static: keeps one mask for the whole run; it has no paper."}


def cite(sources: Mapping[str, str]) -> tuple[list[Paper], list[str]]:
    """Return the papers of the built-in methods, and a sentence for every other method.

    Args:
        sources: method -> source that the run recorded, or "".

    >>> [paper.arxiv for paper in cite({"RigL": "", "Static": ""})[0]], cite({"Mine": ""})[1]
    (['1911.11134'], ['Mine: a custom method that names no paper.'])
    >>> cite({"Mine": "arXiv:2102.04010"})[1]
    ['Mine: arXiv:2102.04010']
    """
    papers, others = [], []
    for name, source in {name.lower(): (name, source) for name, source in sources.items()}.values():
        if name.lower() in PAPERS:
            papers.append(PAPERS[name.lower()])
        else:
            own = f"{name}: {source or 'a custom method that names no paper.'}"
            others.append(_WITHOUT_PAPER.get(name.lower(), own))
    return papers, others
