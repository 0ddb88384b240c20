"""Training language models: the text in windows, NT-ASGD, recorded runs that are resumed."""

from rmtnet.language.cost import multiplications
from rmtnet.language.optimizer import NTASGD
from rmtnet.language.study import LanguageStudy
from rmtnet.language.text import columns, perplexity, windows
from rmtnet.language.training import LanguageTraining, run, steps_done

__all__ = [
    "NTASGD",
    "LanguageStudy",
    "LanguageTraining",
    "columns",
    "multiplications",
    "perplexity",
    "run",
    "steps_done",
    "windows",
]
