"""The Hugging Face Hub on this machine: what huggingface_hub asks for when it pushes and loads, and failures on demand.

Commits, branches, tags, large files, collections and rights are kept in memory and behave as on the Hub. Storage by Xet
is not there, because only the Hub's own service speaks it: clients must set HF_HUB_DISABLE_XET=1.
"""

from .client import against, environment_of
from .faults import Fault
from .server import HubServer, hub_server
from .store import User

__all__ = ["Fault", "HubServer", "User", "against", "environment_of", "hub_server"]
