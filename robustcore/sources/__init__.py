"""Images as they come: a tensor, an array, a data set or its loader, a folder. Read when wanted."""

from robustcore.sources.folder import LabelledFolder
from robustcore.sources.forms import open_source
from robustcore.sources.source import Source, digest, is_path, labels_of

__all__ = ["LabelledFolder", "Source", "digest", "is_path", "labels_of", "open_source"]
