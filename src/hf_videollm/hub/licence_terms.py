"""The licences that the Hub knows, and which terms each of them has.

The identifiers are those of the Hub's documentation (repositories-licenses). The terms are a coarse reading that finds
contradictions. They are no legal advice.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["HUB_LICENCES", "NON_COMMERCIAL", "OTHER", "UNKNOWN", "terms_of"]

OTHER, UNKNOWN = "other", "unknown"
NON_COMMERCIAL, NO_DERIVATIVES = "non-commercial", "no derivatives"

_PERMISSIVE = (
    "apache-2.0 mit afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear cc cc0-1.0 cc-by-2.0 "
    "cc-by-2.5 cc-by-3.0 cc-by-4.0 cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 etalab-2.0 isc lppl-1.3c "
    "odc-by openmdw-1.0 postgresql ofl-1.1 ncsa unlicense zlib pddl c-uda"
)
# Whoever passes these on has to do so under the same licence.
_SHARE_ALIKE = (
    "cc-by-sa-3.0 cc-by-sa-4.0 cdla-sharing-1.0 epl-1.0 epl-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 "
    "lgpl lgpl-2.1 lgpl-3.0 lgpl-lr ms-pl mpl-2.0 odbl osl-3.0"
)
# These have terms of their own, which have to be passed on.
_OWN_TERMS = (
    "llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 gemma grok2-community openrail bigscience-openrail-m "
    "creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m openrail++ apple-ascl"
)
_OWN_TERMS_FOR_RESEARCH = (
    "apple-amlr intel-research h-research deepfloyd-if-license fair-noncommercial-research-license"
)


def _terms() -> dict[str, frozenset[str]]:
    terms = {name: frozenset[str]() for name in _PERMISSIVE.split()}
    terms |= {name: frozenset({f"the same licence ({name})"}) for name in _SHARE_ALIKE.split()}
    terms |= {name: frozenset({f"the terms of {name}"}) for name in _OWN_TERMS.split()}
    terms |= {name: frozenset({NON_COMMERCIAL, f"the terms of {name}"}) for name in _OWN_TERMS_FOR_RESEARCH.split()}
    for version in ("2.0", "3.0", "4.0"):
        terms[f"cc-by-nc-{version}"] = frozenset({NON_COMMERCIAL})
        terms[f"cc-by-nc-sa-{version}"] = frozenset({NON_COMMERCIAL, f"the same licence (cc-by-nc-sa-{version})"})
    terms["cc-by-nd-4.0"] = frozenset({NO_DERIVATIVES})
    for version in ("3.0", "4.0"):
        terms[f"cc-by-nc-nd-{version}"] = frozenset({NON_COMMERCIAL, NO_DERIVATIVES})
    return terms


# Identifier -> its terms. `other` and `unknown` say nothing about terms.
_TERMS: Mapping[str, frozenset[str]] = _terms()
HUB_LICENCES: frozenset[str] = frozenset({*_TERMS, OTHER, UNKNOWN})


def terms_of(licence: str | None) -> frozenset[str] | None:
    """The terms that a licence asks to pass on; `None` if that is not known.

    Example:
        >>> sorted(terms_of("cc-by-nc-4.0"))
        ['non-commercial']
    """
    return _TERMS.get(licence) if licence is not None else None
